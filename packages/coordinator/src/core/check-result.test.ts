import { hash } from 'node:crypto'
import type { JobResult, NodeId, Receipt, ResultContent } from '@bramble/protocol'
import { resultHash } from '@bramble/protocol'
import { describe, expect, it } from 'vitest'
import { blobsOf, checkResult } from './check-result.ts'

const sha256 = (data: string | Uint8Array): string => hash('sha256', data)
const text = (content: string): ResultContent =>
  ({ encoding: 'utf8', content, sizeBytes: Buffer.byteLength(content), sha256: sha256(content) }) as ResultContent

const LEASE = {
  network: `0x${'1'.repeat(64)}`,
  job: 'job_1',
  execution: 'exe_1',
  token: 3,
  node: `0x${'a'.repeat(40)}` as NodeId,
  maxOutputBytes: 1000,
  outputs: ['out.txt'],
}

const RESULT: JobResult = {
  status: 'succeeded',
  exitCode: 0,
  stdout: text('hello\n'),
  stderr: text(''),
  truncated: false,
  outputs: { 'out.txt': text('data') },
}

const signed = (result: JobResult, more: Partial<Receipt> = {}): Receipt => ({
  network: LEASE.network,
  job: LEASE.job,
  execution: LEASE.execution,
  token: LEASE.token,
  node: LEASE.node,
  inputHash: `0x${'2'.repeat(64)}`,
  resultHash: `0x${resultHash(
    {
      status: result.status,
      exitCode: result.exitCode,
      signal: result.signal,
      stdoutSha256: result.stdout.sha256,
      stderrSha256: result.stderr.sha256,
      outputs: Object.fromEntries(
        Object.entries(result.outputs).map(([path, each]) => [path, 'error' in each ? each.error : each.sha256]),
      ),
    },
    sha256,
  )}`,
  cpuMs: 5,
  peakMemoryBytes: 1 << 20,
  startedAtMs: 1000,
  finishedAtMs: 1010,
  ...more,
})

const fault = (result: Partial<JobResult>, receipt: Partial<Receipt> = {}): string | undefined => {
  const whole = { ...RESULT, ...result }
  const checked = checkResult(LEASE, signed(whole, receipt), whole)
  return checked.ok ? undefined : checked.message
}

it('takes what is as it says, and gives its hashes', () => {
  const receipt = signed(RESULT)
  expect(checkResult(LEASE, receipt, RESULT)).toEqual({
    ok: true,
    inputHash: '2'.repeat(64),
    resultHash: receipt.resultHash.slice(2),
  })
})

describe('a receipt', () => {
  it.each([
    ['network', { network: `0x${'9'.repeat(64)}` }],
    ['job', { job: 'job_2' }],
    ['execution', { execution: 'exe_2' }],
    ['token', { token: 2 }],
    ['node', { node: `0x${'b'.repeat(40)}` as NodeId }],
    ['inputHash', { inputHash: '0x12' }],
    ['resultHash', { resultHash: `0x${'3'.repeat(64)}` }],
    ['cpuMs', { cpuMs: Number.NaN }],
    ['cpuMs', { cpuMs: -1 }],
    ['cpuMs', { cpuMs: 1e15 }],
    ['peakMemoryBytes', { peakMemoryBytes: 2 ** 53 }],
    ['finishedAtMs', { finishedAtMs: 1 }],
    ['finishedAtMs', { finishedAtMs: 1e13 }],
  ])('of another %s than the lease allows is refused, and says so', (field, change) => {
    expect(fault({}, change)).toContain(field === 'resultHash' ? 'its receipt signs' : field)
  })
})

describe('a result', () => {
  it.each<[string, Partial<JobResult>, string]>([
    ['that is none', { status: 'cancelled', exitCode: null }, 'is no result'],
    ['whose ending contradicts itself', { status: 'succeeded', exitCode: 1 }, 'cannot be'],
    ['with an exit code of no process', { status: 'failed', exitCode: 256 }, 'not between'],
    ['cut though it is short', { truncated: true }, 'output was cut'],
    ['of more than was asked', { outputs: { '/etc/passwd': text('x') } }, 'not asked for'],
    ['with too much output', { stdout: text('x'.repeat(1001)) }, 'may have 1000'],
    ['with another size', { stdout: { ...text('abc'), sizeBytes: 4 } }, 'not the 4'],
    ['with a negative size', { stdout: { ...text('abc'), sizeBytes: -1 } }, 'has -1 bytes'],
    ['with another digest', { stdout: { ...text('abc'), sha256: sha256('abd') as never } }, 'SHA-256'],
    ['in bad base64', { stdout: { ...text('ab'), encoding: 'base64', content: 'YW I=' } as never }, 'base64'],
    ['longer than goes inline', { outputs: { 'out.txt': text('x'.repeat(65_537)) } }, 'more is a blob'],
    [
      'in a blob of another name',
      { stdout: { blob: sha256('a'), sizeBytes: 1, sha256: sha256('b') } as never },
      'not its SHA-256',
    ],
    ['that has no hash', { signal: '\ud800' }, 'no hash'],
  ])('%s is refused, and says why', (_name, change, message) => {
    const whole = { ...RESULT, ...change }
    const receipt = change.signal === undefined ? signed(whole) : signed(RESULT)
    expect(checkResult(LEASE, receipt, whole)).toMatchObject({ ok: false, message: expect.stringContaining(message) })
  })

  it('may be in blobs, binary, cut at its limit, or have outputs that are not there', () => {
    const blob = { blob: sha256('big'), sizeBytes: 900, sha256: sha256('big') } as never
    expect(fault({ stdout: blob })).toBeUndefined()
    expect(blobsOf({ ...RESULT, stdout: blob, outputs: { 'out.txt': blob } })).toHaveLength(2)
    const bytes = Buffer.from([255, 0, 1])
    const binary = {
      encoding: 'base64',
      content: bytes.toString('base64'),
      sizeBytes: 3,
      sha256: sha256(bytes),
    } as never
    expect(fault({ stdout: binary })).toBeUndefined()
    expect(fault({ stdout: text('x'.repeat(998)), truncated: true })).toBeUndefined()
    expect(fault({ outputs: { 'out.txt': { error: 'not_found' } } })).toBeUndefined()
    expect(fault({ status: 'timeout', exitCode: null })).toBeUndefined()
    expect(fault({ status: 'failed', exitCode: 137, signal: 'SIGKILL' })).toBeUndefined()
  })
})
