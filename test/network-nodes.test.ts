import { oci } from '@bramble/runtime'
import { sealInputs } from '@bramble/sdk'
import { describe, expect, test } from 'vitest'
import { clientOf, startBramble } from './network-process.ts'
import { canRunNode } from './node-process.ts'

const reason = await canRunNode(oci())

describe.skipIf(reason !== undefined)(`a network of real nodes${reason === undefined ? '' : ` (${reason})`}`, () => {
  test('agrees on a job, on large outputs and on sealed inputs', async () => {
    await using network = await startBramble(['up', '--nodes', '3', '--no-setup'])
    expect(network.ready).toMatchObject({ firstJob: { stdout: 'hello\n', agreed: 2 } })
    const client = clientOf(network)

    const hello = await client.jobs.submit({ command: 'echo hello; id -u; date +%Z; hostname' })
    const job = await client.jobs.wait(hello.id)
    expect(job).toMatchObject({ status: 'completed', diversity: 'relaxed', verification: { agreed: 2 } })
    expect(job.result?.stdout).toMatchObject({ content: 'hello\n0\nUTC\nsandbox\n' })
    expect(await client.jobs.verify(hello.id)).toMatchObject({ valid: true })

    const large = await client.jobs.submit({
      command: 'yes 0123456789 | head -c 3000000 > big; head -c 200000 big; wc -c < big >&2',
      outputs: ['big'],
      outputBlobs: true,
    })
    const { result } = await client.jobs.wait(large.id)
    if (result === undefined || result.outputs.big === undefined || 'error' in result.outputs.big)
      throw new Error(`no output: ${JSON.stringify(result)}`)
    expect(result.stdout).toMatchObject({ blob: expect.any(String), sizeBytes: 200_000 })
    const big = await client.jobs.read(result.outputs.big)
    expect(Buffer.from(big).toString('latin1', 0, 22)).toBe('0123456789\n0123456789\n')
    expect(big.length).toBe(3_000_000)

    const { publicKey } = await client.network.stats()
    const sealedInputs = await sealInputs(publicKey, { env: { KEY: 'topsecret' } })
    const sealed = await client.jobs.submit({ command: 'printf %s "$KEY" | wc -c', sealedInputs })
    expect((await client.jobs.wait(sealed.id)).result?.stdout).toMatchObject({ content: '9\n' })
  })

  test('outlives a worker that is killed in the middle, and one that drains', async () => {
    await using network = await startBramble(['up', '--nodes', '1', '--no-setup'])
    const client = clientOf(network)
    const { id: own = '' } = (network.ready.nodes as { id: string }[])[0] ?? {}
    // From here on it takes no work: the others are processes of their own.
    await client.network.drain(own)
    const url = String(network.ready.url)
    const join = ['worker', 'join', url, '--owner', 'tester', '--drain-grace', '1m']
    const env = { BRAMBLE_API_KEY: String(network.ready.apiKey), BRAMBLE_SSH_PORT: 'off' }
    const workers = await Promise.all([0, 1, 2].map(() => startBramble(join, env)))
    await using _ = {
      [Symbol.asyncDispose]: () => Promise.all(workers.map((each) => each[Symbol.asyncDispose]())).then(() => {}),
    }
    const command = 'sleep 2; echo survived'
    const { id } = await client.jobs.submit({ command, redundancy: 1, consensus: 1 })
    const victim = await Promise.any(workers.map((each) => each.line({ event: 'leased', job: id }).then(() => each)))
    expect(await victim.end('SIGKILL')).toBe('SIGKILL')
    const job = await client.jobs.wait(id)
    expect(job).toMatchObject({ status: 'completed', result: { stdout: { content: 'survived\n' } } })
    const [lost, done] = await client.jobs.executions(id)
    expect(lost).toMatchObject({ node: victim.ready.node, status: 'lost' })
    expect(done).toMatchObject({ validity: 'agreed' })

    const last = await client.jobs.submit({ command, redundancy: 1, consensus: 1 })
    const drained = await Promise.any(
      workers
        .filter((each) => each !== victim)
        .map((each) => each.line({ event: 'leased', job: last.id }).then(() => each)),
    )
    expect(await drained.end('SIGTERM')).toBe(0)
    const [only, ...others] = await client.jobs.executions(last.id)
    expect(others).toEqual([])
    expect(only).toMatchObject({ node: drained.ready.node, validity: 'agreed' })
  })
})
