import { stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { chunksOf, openRegularFile } from './host-file.ts'
import { imageInvalid } from './image-errors.ts'
import type { ImageRunConfig } from './image-store.ts'
import { type ImportContext, type Located, layoutPath } from './located.ts'
import { addLayer, finishLayout, startLayout } from './oci-layout.ts'
import { lastWords, startTool } from './run-tool.ts'
import { writeLayer } from './write-layer.ts'

/** What a root filesystem without a config gets: a PATH that finds the usual places, as root, in `/`. */
export const DEFAULT_RUN_CONFIG: ImageRunConfig = {
  env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' },
  workdir: '/',
  user: 'root',
}

export const locateRootfsTar = async (
  source: { path: string; config?: Partial<ImageRunConfig> },
  context: ImportContext,
): Promise<Located> => {
  const file = await openRegularFile(source.path)
  const totalBytes = (await file.stat()).size
  let readBytes = 0
  let shown = 0
  async function* counted() {
    for await (const chunk of chunksOf(file, context.signal)) {
      readBytes += chunk.length
      if (readBytes - shown > totalBytes / 50) {
        shown = readBytes
        context.progress({ phase: 'copy', message: 'checking the archive', fraction: readBytes / totalBytes })
      }
      yield chunk
    }
  }
  return locateLayer(counted(), `rootfs tar ${basename(source.path)}`, source.config, context)
}

/** The tree as GNU tar writes it, in the order of names: the same tree gives the same digest. Xattrs are left out. */
export const locateRootfsDirectory = async (
  source: { path: string; config?: Partial<ImageRunConfig> },
  context: ImportContext,
): Promise<Located> => {
  const found = await stat(source.path).catch((cause) => {
    throw imageInvalid(`${source.path} cannot be read (${cause.code})`, cause)
  })
  if (!found.isDirectory()) throw imageInvalid(`${source.path} is not a directory`)
  context.progress({ phase: 'copy', message: 'reading the directory' })
  const format = ['--format=gnu', '--sort=name', '--numeric-owner', '--one-file-system']
  const args = ['--create', ...format, '--file=-', '--directory', source.path, '.']
  async function* output() {
    const tar = startTool(context.tools.tar, args, { signal: context.signal })
    try {
      yield* tar.stdout as AsyncIterable<Buffer>
      const { exitCode, message } = await tar.ended
      if (exitCode !== 0) throw imageInvalid(`${source.path} cannot be read: ${lastWords(message)}`)
    } finally {
      tar.kill()
      await tar.ended.catch(() => {})
    }
  }
  return locateLayer(output(), `rootfs directory ${basename(source.path)}`, source.config, context)
}

/** A root filesystem's digest is known only when it is written: then nothing is left for `fetch` to do. */
const locateLayer = async (
  layer: AsyncIterable<Buffer>,
  source: string,
  config: Partial<ImageRunConfig> | undefined,
  context: ImportContext,
): Promise<Located> => {
  const run = { ...DEFAULT_RUN_CONFIG, ...config }
  const layout = layoutPath(context)
  await startLayout(layout)
  const path = join(layout, 'layer')
  const written = await writeLayer(layer, path, context)
  if (written.entryCount === 0) throw imageInvalid('it holds no file')
  await addLayer(layout, path, written)
  const digest = await finishLayout(layout, [written], run)
  return { digest, source, fetch: async () => run }
}
