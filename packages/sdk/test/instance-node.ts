import { mkdtemp, rm } from 'node:fs/promises'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openEngine } from '@bramble/engine'
import { openGateway } from '@bramble/gateway'
import { buildBaseImage, oci, openImageStore } from '@bramble/runtime'

export interface InstanceNode extends AsyncDisposable {
  readonly url: string
  readonly key: string
}

const DISK_BYTES = 4 * 1024 ** 3

/** A whole node with real sandboxes of busybox, or why this host has none. `REQUIRE_DRIVERS` makes that an error. */
export const openInstanceNode = async (): Promise<InstanceNode | { skip: string }> => {
  await using undo = new AsyncDisposableStack()
  const directory = await mkdtemp(join(tmpdir(), 'bramble-sdk-'))
  undo.defer(() => rm(directory, { recursive: true, force: true }))
  const probe = await oci({ diskBytes: DISK_BYTES })({ dataDirectory: directory })
  if (!probe.available || !probe.runtime.capabilities.keep) {
    const skip = probe.available ? 'the runtime keeps no sandboxes' : probe.reason
    if (probe.available) await probe.runtime[Symbol.asyncDispose]()
    if (process.env.REQUIRE_DRIVERS?.split(',').includes('oci')) throw new Error(skip)
    return { skip }
  }
  const runtime = undo.use(probe.runtime)
  const images = await openImageStore({ directory: join(directory, 'images') })
  await buildBaseImage(images, { busyboxPath: '/bin/busybox' })
  const engine = await openEngine({ dataDirectory: directory, runtimes: [runtime], images, limits: { minReady: 0 } })
  undo.defer(() => engine.close({ graceMs: 0 }))
  const gateway = await openGateway({ engine, dataDirectory: directory, port: 0, version: '0.0.0' })
  undo.defer(() => gateway.close({ graceMs: 0 }))
  undo.defer(async () => {
    const { items } = await engine.instances.list({ tenant: 'default', limit: 500 })
    await Promise.all(items.map(({ id }) => engine.instances.remove(id, 'default')))
  })
  const held = undo.move()
  return { url: gateway.url, key: gateway.adminKey ?? '', [Symbol.asyncDispose]: () => held.disposeAsync() }
}

export interface BrittleWay extends AsyncDisposable {
  readonly url: string
  /** Breaks every connection there is, in the middle of whatever it carries. */
  cut(): void
}

/** A way to a node whose connections can be broken. */
export const brittleWay = async (to: string): Promise<BrittleWay> => {
  const { hostname, port } = new URL(to)
  const sockets = new Set<Socket>()
  const server = createServer((near) => {
    const far = connect(Number(port), hostname)
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        sockets.delete(socket)
        other.destroy()
      })
      socket.pipe(other)
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  const cut = (): void => {
    for (const socket of sockets) socket.resetAndDestroy()
  }
  return {
    url: `http://127.0.0.1:${address.port}`,
    cut,
    [Symbol.asyncDispose]: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        cut()
      }),
  }
}
