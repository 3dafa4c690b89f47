import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { openEngine } from '@bramble/engine'
import { openGateway } from '@bramble/gateway'
import { fake, openImageStore } from '@bramble/runtime'

export interface TestNode extends AsyncDisposable {
  readonly url: string
  readonly key: string
  /** A root filesystem as a tar, on this host. */
  readonly rootfsTar: string
}

/** A whole node over HTTP on a free port, with the runtime in memory: real gateway, real engine, real images. */
export const openTestNode = async (options: { maxRunning?: number; maxQueued?: number } = {}): Promise<TestNode> => {
  await using undo = new AsyncDisposableStack()
  const directory = await mkdtemp(join(tmpdir(), 'bramble-sdk-'))
  undo.defer(() => rm(directory, { recursive: true, force: true }))
  const probe = await fake()()
  if (!probe.available) throw new Error(probe.reason)
  const runtime = undo.use(probe.runtime)
  const images = await openImageStore({ directory: join(directory, 'images') })
  const rootfsTar = await makeRootfsTar(directory)
  await images.import({ kind: 'rootfsTar', path: rootfsTar }, { name: 'base' })
  const limits = { minReady: 0, ...options }
  const engine = await openEngine({ dataDirectory: directory, runtimes: [runtime], images, limits })
  undo.defer(() => engine.close({ graceMs: 0 }))
  const gateway = await openGateway({ engine, dataDirectory: directory, port: 0, version: '0.0.0' })
  undo.defer(() => gateway.close({ graceMs: 0 }))
  const held = undo.move()
  return { url: gateway.url, key: gateway.adminKey ?? '', rootfsTar, [Symbol.asyncDispose]: () => held.disposeAsync() }
}

const makeRootfsTar = async (directory: string): Promise<string> => {
  const rootfs = join(directory, 'rootfs')
  await mkdir(join(rootfs, 'etc'), { recursive: true })
  await writeFile(join(rootfs, 'etc/content'), directory)
  await promisify(execFile)('tar', ['-C', rootfs, '-cf', `${rootfs}.tar`, '.'])
  return `${rootfs}.tar`
}
