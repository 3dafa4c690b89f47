import { openS3Server, type S3Server } from '@bramble/blobs/testing/s3'
import { oci } from '@bramble/runtime'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type BrambleProcess, clientOf, startBramble } from './network-process.ts'
import { canRunNode } from './node-process.ts'

const reason = await canRunNode(oci())

describe.skipIf(reason !== undefined)(`instances of a network${reason === undefined ? '' : ` (${reason})`}`, () => {
  let s3: S3Server | { readonly skip: string }
  beforeAll(async () => {
    s3 = await openS3Server()
    if ('skip' in s3 && process.env.REQUIRE_DRIVERS?.split(',').includes('s3')) throw new Error(s3.skip)
  })
  afterAll(async () => {
    if (!('skip' in s3)) await s3.close()
  })

  test('a node that is killed is missed by nobody: its instance is on another one, with its files', async (context) => {
    if ('skip' in s3) return context.skip(s3.skip)
    await using coordinator = await startBramble(['coordinator', '--share-machines', '--failover', '5s'])
    const client = clientOf(coordinator)
    const join = ['worker', 'join', String(coordinator.ready.url), '--owner', 'tester']
    const env = {
      BRAMBLE_API_KEY: String(coordinator.ready.apiKey),
      BRAMBLE_OBJECT_STORE_URL: s3.url(await s3.newBucket()),
      BRAMBLE_SSH_PORT: 'off',
    }
    const workers = await Promise.all([0, 1].map(() => startBramble(join, env)))
    await using held = {
      [Symbol.asyncDispose]: () => Promise.all(workers.map((each) => each[Symbol.asyncDispose]())).then(() => {}),
    }
    const workerOf = (node: string): BrambleProcess => {
      const found = workers.find(({ ready }) => ready.node === node)
      if (!found) throw new Error(`no worker is ${node}`)
      return found
    }

    const box = await client.network.instances.start({ name: 'box', memoryMb: 64 })
    await box.files.write('/root/file', 'kept')
    const first = await client.network.route({ instance: box.id })
    expect(await client.network.instances.snapshot('box')).toMatchObject({ status: 'live', node: first.node })
    // The tenant of a key of the node itself sees nothing of it.
    await expect(fetch(`${first.url}/api/v1/instances/${box.id}`)).resolves.toMatchObject({ status: 401 })

    await workerOf(first.node).end('SIGKILL')
    // The same object, whose requests go where the route leads.
    expect(new TextDecoder().decode(await box.files.read('/root/file'))).toBe('kept')
    const second = await client.network.route({ instance: 'box' })
    expect(second.node).not.toBe(first.node)
    expect(second.instance).toBe(box.id)
    expect((await box.exec('cat /root/file')).stdout).toBe('kept')

    // The node that was killed comes back, and lets its stale copy go.
    const old = workerOf(first.node)
    await using again = await startBramble(join, env, old.dataDirectory)
    const lines = async () =>
      (await client.network.instances.list().all()).map(({ id, node, status }) => ({ id, node, status }))
    expect(await lines()).toEqual([{ id: box.id, node: second.node, status: 'live' }])
    const stale = () =>
      fetch(`${String(again.ready.gatewayUrl)}/api/v1/instances/${box.id}`, {
        headers: { authorization: `Bearer ${first.token}` },
      }).then(({ status }) => status)
    await expect.poll(stale, { timeout: 20_000 }).toBe(503)

    await client.network.instances.delete('box')
    expect(await lines()).toEqual([])
    void held
  })
})
