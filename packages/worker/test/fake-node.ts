import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { BlobStore } from '@bramble/blobs'
import { type Engine, openEngine } from '@bramble/engine'
import { type FakeOptions, fake, openImageStore } from '@bramble/runtime'

export interface FakeNode extends AsyncDisposable {
  readonly engine: Engine
  readonly dataDirectory: string
}

/** An engine over the runtime in memory. The image `base` has the same digest on all of them. */
export const openFakeNode = async (
  options: FakeOptions = {},
  openBlobs?: (directory: string) => Promise<BlobStore>,
): Promise<FakeNode> => {
  await using undo = new AsyncDisposableStack()
  const dataDirectory = await mkdtemp(join(tmpdir(), 'bramble-worker-'))
  undo.defer(() => rm(dataDirectory, { recursive: true, force: true }))
  const probe = await fake(options)()
  if (!probe.available) throw new Error(probe.reason)
  const runtime = undo.use(probe.runtime)
  const images = await openImageStore({ directory: join(dataDirectory, 'images') })
  await images.import({ kind: 'rootfsTar', path: await rootfsTar(dataDirectory) }, { name: 'base' })
  const blobs = await openBlobs?.(join(dataDirectory, 'blobs'))
  if (blobs) undo.defer(() => blobs.close())
  const limits = { minReady: 0, maxPooled: 0 }
  const engine = await openEngine({ dataDirectory, runtimes: [runtime], images, limits, ...(blobs && { blobs }) })
  undo.defer(() => engine.close({ graceMs: 0 }))
  const held = undo.move()
  return { engine, dataDirectory, [Symbol.asyncDispose]: () => held.disposeAsync() }
}

const rootfsTar = async (directory: string): Promise<string> => {
  const rootfs = join(directory, 'rootfs')
  await mkdir(join(rootfs, 'etc'), { recursive: true })
  await writeFile(join(rootfs, 'etc/hostname'), 'sandbox\n')
  const same = ['--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner', '--mode=755']
  await promisify(execFile)('tar', [...same, '-C', rootfs, '-cf', `${rootfs}.tar`, '.'])
  return `${rootfs}.tar`
}
