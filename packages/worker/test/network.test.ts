import { hash } from 'node:crypto'
import { sealInputs, verifyReceipts } from '@bramble/sdk'
import { describe, expect, test } from 'vitest'
import type { Execute, SessionEvent } from '../src/index.ts'
import { openTestNetwork } from './test-network.ts'

const MIB = 1024 * 1024

/** Resolves with the first event of that type. */
const eventsOf = () => {
  const seen: SessionEvent[] = []
  const lookers = new Set<() => void>()
  const next = <T extends SessionEvent['type']>(type: T) =>
    new Promise<Extract<SessionEvent, { type: T }>>((resolve) => {
      const look = (): void => {
        const found = seen.find((event) => event.type === type)
        if (found) resolve(found as Extract<SessionEvent, { type: T }>)
      }
      lookers.add(look)
      look()
    })
  const onEvent = (event: SessionEvent): void => {
    seen.push(event)
    for (const look of lookers) look()
  }
  return { seen, next, onEvent }
}

describe('a network of workers', () => {
  test('two of three run a job, agree, and sign what anybody can check', async () => {
    await using at = await openTestNetwork()
    for (let node = 0; node < 3; node++) await at.join()
    const { id } = await at.client.jobs.submit({ command: 'echo hello' })
    const job = await at.client.jobs.wait(id)
    expect(job).toMatchObject({ status: 'completed', result: { exitCode: 0, stdout: { content: 'hello\n' } } })
    const evidence = await at.client.jobs.receipts(job.id)
    expect(evidence.receipts).toHaveLength(2)
    expect(verifyReceipts(evidence, { job })).toMatchObject({ valid: true })
  })

  test('inputs come from blobs, and what is large goes as one', async () => {
    await using at = await openTestNetwork()
    await at.join()
    await at.join()
    const input = new Uint8Array(300_000).fill(120)
    const { hash: blob } = await at.client.blobs.put(input)
    const { id } = await at.client.jobs.submit({
      command: 'cat in; cat in in > large; cat in > small; head -c 10 in >&2',
      files: { in: { blob } },
      outputs: ['large', 'small'],
      outputBlobs: true,
    })
    const { status, message, result } = await at.client.jobs.wait(id)
    expect({ status, message }).toEqual({ status: 'completed' })
    if (result === undefined) throw new Error('a completed job has a result')
    expect(result.stderr).toMatchObject({ content: 'x'.repeat(10) })
    const read = async (content: (typeof result)['stdout']) => (await at.client.jobs.read(content)).length
    for (const [content, size] of [
      [result.stdout, 300_000],
      [result.outputs.large, 600_000],
      [result.outputs.small, 300_000],
    ] as const) {
      if (content === undefined || 'error' in content) throw new Error('the output is there')
      expect(content).toMatchObject({ blob: content.sha256, sizeBytes: size })
      expect(await read(content)).toBe(size)
    }
  })

  test('an output that no result of a node has room for is a blob from the node’s store', async () => {
    await using at = await openTestNetwork()
    await at.join()
    const { id } = await at.client.jobs.submit({
      command: 'head -c 20971520 /dev/zero > huge',
      outputs: ['huge'],
      outputBlobs: true,
      ...{ redundancy: 1, consensus: 1 },
    })
    const { result } = await at.client.jobs.wait(id)
    expect(result?.outputs.huge).toMatchObject({ blob: expect.any(String), sizeBytes: 20 * MIB })
  })

  test('sealed inputs reach the nodes that run it, and show nowhere', async () => {
    await using at = await openTestNetwork()
    await at.join()
    await at.join()
    const { publicKey } = await at.network.stats()
    const sealedInputs = await sealInputs(publicKey, { env: { KEY: 'topsecret' } })
    const { id } = await at.client.jobs.submit({ command: 'printf %s "$KEY" | sha256sum', sealedInputs })
    const job = await at.client.jobs.wait(id)
    expect(job.result?.stdout).toMatchObject({ content: expect.stringContaining(hash('sha256', 'topsecret')) })
    expect(JSON.stringify([job, await at.client.jobs.executions(id)])).not.toContain('topsecret')
  })

  test('one that lies is outvoted', async () => {
    await using at = await openTestNetwork()
    const lying =
      (execute: Execute): Execute =>
      async (lease, context) => {
        const { spec } = lease
        return await execute({ ...lease, spec: { ...spec, command: 'echo 43' } }, context)
      }
    const { worker: liar } = await at.join({ wrap: lying })
    await at.join()
    await at.join()
    const { id } = await at.client.jobs.submit({ command: 'echo 42', strategy: 'eager' })
    const job = await at.client.jobs.wait(id)
    expect(job).toMatchObject({ status: 'completed', result: { stdout: { content: '42\n' } } })
    const executions = await at.client.jobs.executions(id)
    expect(executions.find(({ node }) => node === liar.node)?.validity ?? 'not asked').not.toBe('agreed')
    expect(executions.filter(({ validity }) => validity === 'agreed')).toHaveLength(2)
  })

  test('a job that is cancelled ends its commands', async () => {
    await using at = await openTestNetwork()
    const { onEvent, next } = eventsOf()
    const { node } = await at.join({ onEvent })
    const { id } = await at.client.jobs.submit({ command: 'sleep 1000', redundancy: 1, consensus: 1 })
    await next('leased')
    await at.client.jobs.cancel(id)
    await next('stopped')
    expect((await at.client.jobs.get(id)).status).toBe('cancelled')
    // Nothing is left of it once the engine has ended it, and the engine's end waits for that.
    await node.engine.close({ graceMs: 60_000 })
  })

  test('what a node runs is shown while it runs, where nobody has to agree with it', async () => {
    await using at = await openTestNetwork()
    await at.join()
    const command = 'echo first; sleep 1; echo second'
    const { id } = await at.client.jobs.submit({ command, redundancy: 1, consensus: 1 })
    const types: string[] = []
    for await (const event of at.client.jobs.events(id)) types.push(event.type)
    expect(types).toContain('stdout')
    expect(types.indexOf('stdout')).toBeLessThan(types.lastIndexOf('status'))
  })

  test('a worker that can do no better polls', async () => {
    await using at = await openTestNetwork()
    await at.join({ transport: 'poll' })
    await at.join({ transport: 'poll' })
    const { id } = await at.client.jobs.submit({ command: 'echo polled' })
    expect(await at.client.jobs.wait(id)).toMatchObject({ status: 'completed', result: { exitCode: 0 } })
  })
})

describe('what goes wrong', () => {
  test('a result that ends while the coordinator is away is sent when it is back, and counts', async () => {
    await using at = await openTestNetwork()
    const { onEvent, next, seen } = eventsOf()
    const gate = Promise.withResolvers<void>()
    const slow =
      (execute: Execute): Execute =>
      async (lease, context) => {
        context.started()
        await gate.promise
        return await execute(lease, context)
      }
    const { worker } = await at.join({ onEvent, wrap: slow })
    const { id } = await at.client.jobs.submit({ command: 'echo late', redundancy: 1, consensus: 1 })
    await next('leased')
    await at.restartFront(async () => {
      await next('away')
      gate.resolve()
      await next('finished')
      expect(worker.session.held()).toHaveLength(1)
    })
    expect(await at.client.jobs.wait(id)).toMatchObject({ status: 'completed' })
    expect(seen.filter(({ type }) => type === 'leased')).toHaveLength(1)
  })

  test('a node that leaves says so, and its work is done by another', async () => {
    await using at = await openTestNetwork()
    const { onEvent, next } = eventsOf()
    const endless: Execute = (_lease, { signal }) =>
      new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    const { worker } = await at.join({ onEvent, wrap: () => endless })
    const { id } = await at.client.jobs.submit({ command: 'echo done', redundancy: 1, consensus: 1 })
    await next('leased')
    await at.join()
    await worker.close({ graceMs: 0 })
    const job = await at.client.jobs.wait(id)
    expect(job).toMatchObject({ status: 'completed', result: { stdout: { content: 'done\n' } } })
    const [first, second] = await at.client.jobs.executions(id)
    expect(first).toMatchObject({ node: worker.node, status: 'failed' })
    expect(second?.node).not.toBe(worker.node)
  })

  test('a node without an invite does not join', async () => {
    await using at = await openTestNetwork()
    await expect(at.join({ token: 'inv_nothing' })).rejects.toMatchObject({ name: 'BrambleError' })
  })

  test('a node keeps its key and its network: it comes back as itself', async () => {
    await using at = await openTestNetwork()
    const { node, worker } = await at.join()
    await worker.close()
    const { worker: again } = await at.join({ dataDirectory: node.dataDirectory, token: undefined })
    expect(again.node).toBe(worker.node)
  })
})
