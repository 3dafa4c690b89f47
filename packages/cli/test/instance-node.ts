import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openEngine } from '@bramble/engine'
import { openGateway } from '@bramble/gateway'
import { buildBaseImage, oci, openImageStore } from '@bramble/runtime'
import { removeNodeFile, writeNodeFile } from '../src/node/node-file.ts'

export interface InstanceNode extends AsyncDisposable {
  readonly url: string
  readonly key: string
  readonly dataDirectory: string
}

const DISK_BYTES = 4 * 1024 ** 3

/** A whole node with real sandboxes of busybox, as the CLI finds one by its data directory; or why this host has none. */
export const openInstanceNode = async (): Promise<InstanceNode | { skip: string }> => {
  await using undo = new AsyncDisposableStack()
  const dataDirectory = await mkdtemp(join(tmpdir(), 'bramble-cli-'))
  undo.defer(() => rm(dataDirectory, { recursive: true, force: true }))
  const probe = await oci({ diskBytes: DISK_BYTES })({ dataDirectory })
  if (!probe.available || !probe.runtime.capabilities.keep) {
    const skip = probe.available ? 'the runtime keeps no sandboxes' : probe.reason
    if (probe.available) await probe.runtime[Symbol.asyncDispose]()
    if (process.env.REQUIRE_DRIVERS?.split(',').includes('oci')) throw new Error(skip)
    return { skip }
  }
  const runtime = undo.use(probe.runtime)
  const images = await openImageStore({ directory: join(dataDirectory, 'images') })
  await buildBaseImage(images, { busyboxPath: '/bin/busybox' })
  const engine = await openEngine({ dataDirectory, runtimes: [runtime], images, limits: { minReady: 0 } })
  undo.defer(() => engine.close({ graceMs: 0 }))
  const gateway = await openGateway({ engine, dataDirectory, port: 0, version: '0.0.0' })
  undo.defer(() => gateway.close({ graceMs: 0 }))
  undo.defer(async () => {
    const { items } = await engine.instances.list({ tenant: 'default', limit: 500 })
    await Promise.all(items.map(({ id }) => engine.instances.remove(id, 'default')))
  })
  writeNodeFile(dataDirectory, { url: gateway.url, startedAt: new Date().toISOString() })
  undo.defer(() => removeNodeFile(dataDirectory))
  const held = undo.move()
  return {
    url: gateway.url,
    key: gateway.adminKey ?? '',
    dataDirectory,
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  }
}
