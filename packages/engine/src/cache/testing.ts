import { type BlobHash, type ExecutionResult, newId, resultHash } from '@bramble/protocol'
import { sha256 } from '../outcome.ts'
import type { CacheWish } from './result-cache.ts'

/** Made-up wishes and results of one input, for the tests of the cache. */

const IMAGE = 'sha256:1'
export const KEY = sha256('a key') as BlobHash

export const aWish = (more: Partial<CacheWish> = {}): CacheWish => ({
  ...{ tenant: 'acme', inputHash: KEY, imageDigest: IMAGE, image: 'base', labels: { job: 'nightly' } },
  ...more,
})

/** Its result hash is right for what it says by itself; with other outputs or encodings it is given. */
export const aResult = (stdout: string, more: Partial<ExecutionResult> = {}): ExecutionResult => {
  const { status = 'succeeded', exitCode = 0 } = more
  const digests = { status, exitCode, stdoutSha256: sha256(stdout), stderrSha256: sha256(''), outputs: {} }
  return {
    ...{ id: newId('execution'), mode: 'cached', runtime: 'fake', image: IMAGE, status, exitCode, stdout, stderr: '' },
    ...{ encoding: 'utf8', truncated: false, cached: false, outputs: {}, inputHash: KEY },
    resultHash: resultHash(digests, sha256),
    usage: { cpuMs: 7, peakMemoryBytes: 7, diskBytes: 7, egressBytes: 7 },
    timings: { queuedMs: 1, startMs: 1, execMs: 1, totalMs: 3 },
    startedAt: '2026-01-01T00:00:00.000Z',
    finishedAt: '2026-01-01T00:00:01.000Z',
    ...more,
  }
}
