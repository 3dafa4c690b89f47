import { hash } from 'node:crypto'
import { seal } from '@bramble/identity'
import { type ExecutionSpecInput, executionSpecSchema, inputHash, type Lease } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import { leaseRunner } from '../src/node/run-lease.ts'
import { workerBlobs } from '../src/node/worker-blobs.ts'
import { networkClock } from '../src/session/network-clock.ts'
import type { ExecuteLeaseContext } from '../src/session/session.ts'
import { signedRequests } from '../src/session/signed-requests.ts'
import { aLease, testIdentity } from '../src/session/testing.ts'
import { type FakeNode, openFakeNode } from './fake-node.ts'

const sha256 = (data: string | Uint8Array): string => hash('sha256', data)
const identity = testIdentity()
/** Nobody listens there: what is tested here needs no blobs of others. */
const NOWHERE = 'http://127.0.0.1:1'

const runnerOf = ({ engine }: FakeNode, tenant = 'bramble.network') => {
  const clock = networkClock()
  const requests = signedRequests(NOWHERE, identity, clock)
  return leaseRunner({ engine, identity, tenant, clock, blobs: workerBlobs({ engine, requests, tenant }) })
}

const leaseOf = (spec: ExecutionSpecInput, more: Partial<Lease> = {}) =>
  aLease({ spec: executionSpecSchema.parse(spec), ...more })

const contextOf = (more: Partial<ExecuteLeaseContext> = {}) => {
  const seen = { started: 0, stdout: '' }
  const context: ExecuteLeaseContext = {
    signal: new AbortController().signal,
    started: () => {
      seen.started++
    },
    progress: () => {},
    output: async (stream, data) => {
      if (stream === 'stdout') seen.stdout += Buffer.from(data).toString()
      return true
    },
    ...more,
  }
  return { context, seen }
}

describe('a lease', () => {
  test('gives on two nodes what has the same hashes, and the input hash that the spec has', async () => {
    await using left = await openFakeNode()
    await using right = await openFakeNode()
    const lease = leaseOf({ command: 'echo out; echo err >&2; echo file > f; exit 3', outputs: ['f', 'g'] })
    const { context, seen } = contextOf()
    const [a, b] = await Promise.all([runnerOf(left)(lease, context), runnerOf(right)(lease, contextOf().context)])
    expect(b.resultHash).toBe(a.resultHash)
    expect(b.inputHash).toBe(a.inputHash)
    const { digest } = left.engine.images.resolve('base')
    expect(a.inputHash).toBe(inputHash(lease.spec, digest, sha256))
    expect(a.result).toEqual(b.result)
    expect(a.result).toMatchObject({
      ...{ status: 'failed', exitCode: 3, truncated: false },
      stdout: { encoding: 'utf8', content: 'out\n', sizeBytes: 4, sha256: sha256('out\n') },
      stderr: { content: 'err\n' },
      outputs: { f: { content: 'file\n' }, g: { error: 'not_found' } },
    })
    expect(a.finishedAtMs).toBeGreaterThanOrEqual(a.startedAtMs)
    expect(seen.started).toBe(1)
    // It was over before anybody could have watched: its result has it all.
    expect(seen.stdout).toBe('')
  })

  test('of mode `cached` runs each time, with the input hash of that mode', async () => {
    await using node = await openFakeNode()
    const lease = leaseOf({ command: 'echo 1', mode: 'cached', cacheTtlMs: 60_000, outputs: ['f'] })
    const before = node.engine.cache.stats()
    const run = runnerOf(node)
    const first = await run(lease, contextOf().context)
    await run(lease, contextOf().context)
    expect(node.engine.cache.stats()).toEqual(before)
    expect(first.inputHash).toBe(inputHash(lease.spec, node.engine.images.resolve('base').digest, sha256))
  })

  test('with sealed inputs runs with them; with such as are another’s, or are no inputs, it does not', async () => {
    await using node = await openFakeNode()
    const run = runnerOf(node)
    const sealed = (inputs: unknown, publicKey = identity.publicKey) =>
      seal(publicKey, Buffer.from(JSON.stringify(inputs)))
    const spec = { command: 'echo $OPEN $SECRET; cat; cat /key', env: { OPEN: 'a', SECRET: 'x' } }
    const inputs = { env: { SECRET: 'b' }, stdin: 'piped\n', files: { '/key': 'k\n' } }
    const { result } = await run(leaseOf(spec, { sealedInputs: await sealed(inputs) }), contextOf().context)
    expect(result.stdout).toMatchObject({ content: 'a b\npiped\nk\n' })

    const anothers = leaseOf(spec, { sealedInputs: await sealed(inputs, testIdentity().publicKey) })
    await expect(run(anothers, contextOf().context)).rejects.toMatchObject({ code: 'invalid_request' })
    const strange = leaseOf(spec, { sealedInputs: await sealed({ env: { 'A=B': 'topsecret' } }) })
    const error = await run(strange, contextOf().context).catch((thrown) => thrown)
    expect(error).toMatchObject({ code: 'invalid_request' })
    expect(String(error)).not.toContain('topsecret')
  })

  test('of an image that is not here is refused with its name', async () => {
    await using node = await openFakeNode()
    const run = runnerOf(node)
    const refused = (image: string) => run(leaseOf({ command: 'true', image }), contextOf().context)
    await expect(refused('nothere')).rejects.toMatchObject({ code: 'image_not_found' })
    await expect(refused(`sha256:${'0'.repeat(64)}`)).rejects.toMatchObject({ code: 'image_not_found' })
  })

  test('by the digest of an image runs as by its name', async () => {
    await using node = await openFakeNode()
    const run = runnerOf(node)
    const { digest } = node.engine.images.resolve('base')
    const [named, pinned] = await Promise.all([
      run(leaseOf({ command: 'echo 1' }), contextOf().context),
      run(leaseOf({ command: 'echo 1', image: digest }), contextOf().context),
    ])
    expect(pinned.inputHash).toBe(named.inputHash)
  })

  test('that is aborted ends its command', async () => {
    await using node = await openFakeNode()
    const stop = new AbortController()
    const { context } = contextOf({ signal: stop.signal, started: () => stop.abort() })
    await expect(runnerOf(node)(leaseOf({ command: 'sleep 1000' }), context)).rejects.toMatchObject({
      code: 'shutting_down',
    })
    expect(node.engine.status().running).toBe(0)
  })

  test('whose sandbox dies is the node’s fault, and no result', async () => {
    await using node = await openFakeNode({ dies: ({ argv }) => argv.includes('die') })
    await expect(runnerOf(node)(leaseOf({ command: ['die'] }), contextOf().context)).rejects.toMatchObject({
      name: 'BrambleError',
    })
  })

  test('that runs for a while is watched, and a watcher that stalls holds nothing up', async () => {
    await using node = await openFakeNode()
    const { context, seen } = contextOf()
    const lease = leaseOf({ command: 'echo first; sleep 0.3; echo second' })
    const outcome = await runnerOf(node)(lease, context)
    expect(seen.stdout).toContain('first\n')
    expect(outcome.result.stdout).toMatchObject({ content: 'first\nsecond\n' })

    const stalled = contextOf({ output: () => new Promise(() => {}) })
    const again = await runnerOf(node)(lease, stalled.context)
    expect(again.resultHash).toBe(outcome.resultHash)
  })

  test('that runs into its timeout has that as its result', async () => {
    await using node = await openFakeNode()
    const lease = leaseOf({ command: 'sleep 1000', resources: { timeoutMs: 20 } })
    const { result } = await runnerOf(node)(lease, contextOf().context)
    expect(result).toMatchObject({ status: 'timeout', exitCode: null })
  })
})
