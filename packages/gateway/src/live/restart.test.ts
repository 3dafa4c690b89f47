import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openEngine } from '@bramble/engine'
import { buildBaseImage, oci, openImageStore } from '@bramble/runtime'
import { expect, test } from 'vitest'
import { type ConnectOptions, connectStream } from '../../test/live-client.ts'
import type { RealNode } from '../../test/real-node.ts'
import { openGateway } from '../open-gateway.ts'

/** Everything of a node but its sandboxes: closing it leaves them running. */
const openNode = async (directory: string) => {
  const probe = await oci({ diskBytes: 4 * 1024 ** 3 })({ dataDirectory: directory })
  if (!probe.available || !probe.runtime.capabilities.keep) {
    const reason = probe.available ? 'this host keeps no sandboxes' : probe.reason
    if (probe.available) await probe.runtime.close()
    if (process.env.REQUIRE_DRIVERS?.split(',').includes('oci')) throw new Error(reason)
    return { skip: reason }
  }
  const { runtime } = probe
  const images = await openImageStore({ directory: join(directory, 'images') })
  if (images.list().length === 0) await buildBaseImage(images, { busyboxPath: '/bin/busybox' })
  const engine = await openEngine({ dataDirectory: directory, runtimes: [runtime], images, limits: { minReady: 0 } })
  const gateway = await openGateway({ engine, dataDirectory: directory, port: 0, version: '1', auth: false })
  const close = async (): Promise<void> => {
    await gateway.close({ graceMs: 0 })
    await engine.close({ graceMs: 0 })
    await runtime.close()
  }
  return { engine, gateway, close }
}

test('a client that comes back to a node that was restarted goes on where it was', async (context) => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-gateway-'))
  try {
    const first = await openNode(directory)
    if ('skip' in first) return context.skip(first.skip)
    const options = ({ gateway }: typeof first): [RealNode, ConnectOptions] => [
      { gateway } as RealNode,
      { key: '', url: gateway.url },
    ]
    const made = await fetch(`${first.gateway.url}/api/v1/instances`, {
      method: 'POST',
      body: '{"name":"box"}',
      headers: { 'content-type': 'application/json' },
    })
    expect(made.status).toBe(201)
    const [node, connection] = options(first)
    using before = await connectStream(node, 'box', connection)
    before.send({
      type: 'exec',
      id: 'job',
      command: 'for i in $(seq 40); do echo line $i; sleep 0.05; done; read x; echo $x',
    })
    const { seq } = await before.event('stdout')
    await first.close()
    expect(await before.closed).toMatchObject({ code: 1012 })

    const second = await openNode(directory)
    if ('skip' in second) throw new Error(second.skip)
    try {
      const [again, from] = options(second)
      using after = await connectStream(again, 'box', { ...from, query: `since=${seq}` })
      expect(await after.event('state')).toMatchObject({ status: 'running', commands: [{ id: 'job', pty: false }] })
      after.send({ type: 'stdin', id: 'job', data: 'typed later\n' })
      expect(await after.event('exit')).toMatchObject({ id: 'job', code: 0 })
      const seen = before.events.flatMap((event) => (event.type === 'stdout' && event.seq <= seq ? [event.data] : []))
      const lines = Array.from({ length: 40 }, (_, index) => `line ${index + 1}\n`)
      expect(seen.join('') + after.output('job').toString()).toBe(`${lines.join('')}typed later\n`)
    } finally {
      await second.engine.instances.remove('box', 'default')
      await second.close()
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
})
