import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdir, rename } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { type ManifestOf, manifestOfDir, manifestOfLayout } from './blobs-of.ts'
import { byteBudget, spend } from './byte-budget.ts'
import { copyManifest } from './copy-manifest.ts'
import { decompress } from './decompress.ts'
import { chunksOf, openRegularFile } from './host-file.ts'
import { imageInvalid } from './image-errors.ts'
import type { ImportContext, Located } from './located.ts'
import { printable, readTar, type TarEntry } from './read-tar.ts'
import { skopeoCopy } from './skopeo.ts'

const MAX_ARCHIVE_ENTRIES = 10_000
const BLOB_NAME = /^blobs\/sha256\/([0-9a-f]{64})$/

const located = (image: ManifestOf, source: string): Located => ({
  digest: image.digest,
  source,
  fetch: (context) => copyManifest(image, context),
})

export const locateOciLayout = async (source: { path: string }): Promise<Located> =>
  located(await manifestOfLayout(source.path), `OCI layout ${basename(source.path)}`)

/** An archive of an OCI layout, or of `docker save` before it wrote those. */
export const locateOciArchive = async (source: { path: string }, context: ImportContext): Promise<Located> =>
  located(await manifestOfArchive(source.path, context), `archive ${basename(source.path)}`)

/** Takes apart an archive into the import's directory; no name in it is used as a path but those of a layout. */
export const manifestOfArchive = async (path: string, context: ImportContext): Promise<ManifestOf> => {
  context.progress({ phase: 'copy', message: 'reading the archive' })
  const directory = join(context.work, 'archive')
  await mkdir(join(directory, 'blobs', 'sha256'), { recursive: true, mode: 0o700 })
  const found = { index: false, dockerManifest: false }
  let entries = 0
  for await (const entry of readTar(plainArchive(path, context))) {
    if (++entries > MAX_ARCHIVE_ENTRIES) throw imageInvalid(`it has more than ${MAX_ARCHIVE_ENTRIES} files`)
    if (entry.type !== 'file') continue
    const name = entry.name.replace(/^\.\//, '')
    const blob = BLOB_NAME.exec(name)?.[1]
    if (blob !== undefined) await writeBlob(entry, join(directory, 'blobs', 'sha256'), blob, context)
    else if (name === 'index.json') {
      await pipeline(entry.body, createWriteStream(join(directory, name)))
      found.index = true
    } else if (name === 'manifest.json') found.dockerManifest = true
  }
  if (found.index) return manifestOfLayout(directory)
  if (!found.dockerManifest) throw imageInvalid('it is neither an OCI archive nor one of `docker save`')
  const copied = join(context.work, 'docker')
  await skopeoCopy(`docker-archive:${path}`, copied, context, imageInvalid)
  return manifestOfDir(copied)
}

async function* plainArchive(path: string, context: ImportContext): AsyncGenerator<Buffer> {
  // The layers inside have a budget of their own: this one is for the copy of the archive.
  const budget = byteBudget(context.bytes.maxBytes)
  const file = chunksOf(await openRegularFile(path), context.signal)
  for await (const chunk of decompress(file, context.tools, context.signal)) {
    spend(budget, chunk.length)
    yield chunk
  }
}

const writeBlob = async (entry: TarEntry, directory: string, hex: string, context: ImportContext): Promise<void> => {
  const hash = createHash('sha256')
  async function* hashed() {
    for await (const chunk of entry.body) {
      hash.update(chunk)
      yield chunk
    }
  }
  const partial = join(directory, 'partial')
  await pipeline(hashed, createWriteStream(partial), { signal: context.signal })
  if (hash.digest('hex') !== hex) throw imageInvalid(`its ${printable(entry.name)} has other bytes than its name says`)
  await rename(partial, join(directory, hex))
}
