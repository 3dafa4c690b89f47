import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { openEngine } from '@bramble/engine'
import { openGateway } from '@bramble/gateway'
import { fake, openImageStore } from '@bramble/runtime'
import { removeNodeFile, writeNodeFile } from '../src/node/node-file.ts'

export interface TestNode extends AsyncDisposable {
  readonly url: string
  readonly key: string
  readonly dataDirectory: string
  readonly rootfsTar: string
}

/** A whole node over HTTP, as the CLI finds one by its data directory; its runtime is in memory. */
export const openTestNode = async (): Promise<TestNode> => {
  await using undo = new AsyncDisposableStack()
  const dataDirectory = await mkdtemp(join(tmpdir(), 'bramble-cli-'))
  undo.defer(() => rm(dataDirectory, { recursive: true, force: true }))
  const probe = await fake()()
  if (!probe.available) throw new Error(probe.reason)
  const runtime = undo.use(probe.runtime)
  const images = await openImageStore({ directory: join(dataDirectory, 'images') })
  const rootfs = join(dataDirectory, 'rootfs')
  await mkdir(join(rootfs, 'etc'), { recursive: true })
  await writeFile(join(rootfs, 'etc/content'), dataDirectory)
  const rootfsTar = join(dataDirectory, 'my-rootfs.tar')
  await promisify(execFile)('tar', ['-C', rootfs, '-cf', rootfsTar, '.'])
  await images.import({ kind: 'rootfsTar', path: rootfsTar }, { name: 'base' })
  const engine = await openEngine({ dataDirectory, runtimes: [runtime], images, limits: { minReady: 0 } })
  undo.defer(() => engine.close({ graceMs: 0 }))
  const gateway = await openGateway({ engine, dataDirectory, port: 0, version: '0.0.0' })
  undo.defer(() => gateway.close({ graceMs: 0 }))
  writeNodeFile(dataDirectory, { url: gateway.url, startedAt: new Date().toISOString() })
  undo.defer(() => removeNodeFile(dataDirectory))
  const held = undo.move()
  return {
    url: gateway.url,
    key: gateway.adminKey ?? '',
    dataDirectory,
    rootfsTar,
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  }
}
