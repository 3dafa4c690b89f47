import { execFile } from 'node:child_process'
import { Readable } from 'node:stream'
import { promisify } from 'node:util'
import { BrambleError, newId } from '@bramble/protocol'
import type Docker from 'dockerode'
import { sandboxFiles } from '../files/create-sandbox-files.ts'
import type { LocalImage } from '../images/image-store.ts'
import type { SandboxConfig } from '../runtime.ts'
import { checkedEntries, refused } from '../seals/check-entries.ts'
import type { LayerEntry, Sealed, SealSource, SealStore } from '../seals/seals.ts'
import { nameOf } from './container.ts'
import { tagOf } from './image.ts'
import { encodeLayer } from './layer-tar.ts'
import { createSandbox, type DockerContext } from './sandbox.ts'
import {
  assertSealName,
  commitSeal,
  findSealImage,
  getSealImage,
  importLabels,
  listSealImages,
  removeSealImages,
  sealTag,
  unavailable,
  uponTag,
} from './seal-images.ts'
import type { SealReaders } from './seal-reader.ts'

/** Rejects with `conflict` where the name is taken. */
export const assertFreeName = async (context: DockerContext, name: string): Promise<void> => {
  assertSealName(name)
  if (await findSealImage(context, sealTag(context, name)))
    throw new BrambleError('conflict', { detail: `there is a seal ${name} already` })
}

/** A seal of a container's files; the container stands still while the engine copies what it wrote. */
export const sealContainer = async (
  context: DockerContext,
  { container, config }: { container: Docker.Container; config: SandboxConfig },
  { name, memory, signal }: { name: string; memory: boolean; signal?: AbortSignal | undefined },
): Promise<Sealed> => {
  signal?.throwIfAborted()
  if (memory) throw new BrambleError('unsupported', { detail: 'a Docker Engine does not save memory' })
  await assertFreeName(context, name)
  const begunMs = performance.now()
  await commitSeal(context, container, sealTag(context, name), config.image.digest)
  const frozenMs = performance.now() - begunMs
  if (signal?.aborted) {
    await removeSealImages(context, name)
    throw signal.reason
  }
  return { name, memory: false, frozenMs }
}

/** The seals of a data directory in the engine. */
export const dockerSeals = (context: DockerContext, readers: SealReaders): SealStore => ({
  list: async () => (await listSealImages(context)).map((name) => ({ name, memory: false })),
  remove: (name) => removeSealImages(context, name),
  usedBytes: async (name) => (await getSealImage(context, name)).sizeBytes,
  sync: async (name) => {
    await getSealImage(context, name)
    await syncEngine(context.engine)
  },
  async *entries(name, { signal } = {}) {
    signal?.throwIfAborted()
    yield* await readers.entries(await getSealImage(context, name), signal)
  },
  async *read(name, path, { signal } = {}) {
    signal?.throwIfAborted()
    const content = await readers.read(await getSealImage(context, name), path, signal)
    if (!content)
      throw new BrambleError('file_not_found', { detail: `there is no file ${JSON.stringify(path)} in the seal` })
    yield* content
  },
  memory: async (name) => {
    await getSealImage(context, name)
    return undefined
  },
  // biome-ignore lint/correctness/useYield: it has no memory to give
  async *readMemory(name, file) {
    await getSealImage(context, name)
    throw new BrambleError('file_not_found', { detail: `the seal ${name} has no memory, and no file ${file} of it` })
  },
  write: (name, source, { signal } = {}) => writeSeal(context, name, source, signal),
})

/** Where the engine's files are on this host, they are brought to its disk; one elsewhere looks after itself. */
const syncEngine = async (engine: Docker): Promise<void> => {
  const { DockerRootDir } = (await engine.info()) as { DockerRootDir?: string }
  if (DockerRootDir) await promisify(execFile)('sync', ['-f', DockerRootDir]).catch(() => undefined)
}

const writeSeal = async (context: DockerContext, name: string, source: SealSource, signal?: AbortSignal) => {
  signal?.throwIfAborted()
  await assertFreeName(context, name)
  if (source.memory) throw new BrambleError('snapshot_incompatible', { detail: 'a Docker Engine continues no memory' })
  const [repo, tag] = sealTag(context, name).split(':')
  const options = { repo, tag, changes: importLabels(context) }
  await sending(encodeLayer(bounded(source), source.read), signal, async (stream, abortSignal) => {
    const answer = await context.engine.importImage(stream, { ...options, abortSignal })
    // The engine answers in lines of progress; a failure is one of them.
    for await (const line of answer) if (/"error"/.test(String(line))) throw new Error(String(line).trim())
  }).catch(async (error) => {
    await removeSealImages(context, name)
    throw error
  })
}

async function* bounded(source: SealSource): AsyncGenerator<LayerEntry, void, undefined> {
  let bytes = 0
  for await (const entry of checkedEntries(source.entries)) {
    if (entry.type === 'file') bytes += entry.sizeBytes
    if (bytes > source.diskBytes) throw refused(entry.path, `there are more than ${source.diskBytes} bytes`)
    yield entry
  }
}

/** Gives an archive to the engine. What goes wrong while it is made is what is thrown, and the engine sees it cut off. */
const sending = async (
  source: AsyncGenerator<Uint8Array>,
  signal: AbortSignal | undefined,
  send: (stream: NodeJS.ReadableStream, signal: AbortSignal) => Promise<unknown>,
): Promise<void> => {
  const stop = new AbortController()
  const stream = Readable.from(source, { objectMode: false, signal: stop.signal })
  let failure: unknown
  const fail = (error: unknown) => {
    failure ??= error
    stop.abort()
  }
  const abort = () => fail(signal?.reason)
  stream.on('error', fail)
  signal?.addEventListener('abort', abort, { once: true })
  try {
    await send(stream, stop.signal)
  } catch (error) {
    throw failure ?? unavailable(error)
  } finally {
    signal?.removeEventListener('abort', abort)
    stream.destroy()
  }
  if (failure) throw failure
}

/** The image that a sandbox continues a seal in: that of the seal, or one that is made of it upon `image`. */
export const sealedImages = (
  context: DockerContext,
  readers: SealReaders,
  prepare: (image: LocalImage) => Promise<void>,
) => {
  const making = new Map<string, Promise<void>>()
  return async (config: SandboxConfig): Promise<string> => {
    const { seal = '', memory = false } = config.from ?? {}
    if (memory) throw new BrambleError('unsupported', { detail: 'a Docker Engine continues no memory' })
    const found = await getSealImage(context, seal)
    const { digest } = config.image
    if (found.kind === 'sandbox') {
      if (found.digest !== digest)
        throw new BrambleError('snapshot_incompatible', {
          detail: `the seal ${seal} is of the image ${found.digest}, not ${digest}`,
        })
      return found.tag
    }
    const tag = uponTag(context, seal, digest)
    if (await findSealImage(context, tag)) return tag
    const work =
      making.get(tag) ??
      prepare(config.image)
        .then(async () =>
          buildUpon(context, await readers.entries(found), (path) => readOf(readers, found, path), config, tag),
        )
        .finally(() => making.delete(tag))
    making.set(tag, work)
    await work
    return tag
  }
}

async function* readOf(readers: SealReaders, ...[image, path]: Parameters<SealReaders['read']>) {
  const content = await readers.read(image, path)
  if (content) yield* content
}

/** Makes the changes in a sandbox of the image that runs nothing but its agent, and keeps it as `tag`. */
const buildUpon = async (
  context: DockerContext,
  entries: readonly LayerEntry[],
  read: SealSource['read'],
  { image, resources }: SandboxConfig,
  tag: string,
): Promise<void> => {
  const sandbox = await createSandbox(
    context,
    { id: newId('sandbox'), image, resources },
    tagOf(image.digest, context.agent),
    undefined,
  )
  try {
    // What is hidden is removed before what comes in its place: an archive of a container hides nothing.
    async function* present(): AsyncGenerator<LayerEntry, void, undefined> {
      for (const entry of entries) {
        const hides = entry.type === 'deleted' || (entry.type === 'directory' && entry.opaque)
        if (hides) await files.remove(Buffer.from(`/${entry.path}`, 'latin1'), { recursive: true }).catch(unlessMissing)
        if (entry.type === 'directory') yield { ...entry, opaque: false }
        else if (entry.type !== 'deleted') yield entry
      }
    }
    const container = context.engine.getContainer(nameOf(sandbox.id))
    const files = sandboxFiles(sandbox.agent)
    await sending(encodeLayer(present(), read), undefined, async (stream, abortSignal) => {
      await container.putArchive(stream, { path: '/', abortSignal })
    })
    await commitSeal(context, container, tag, image.digest)
  } finally {
    await sandbox.destroy()
  }
}

/** The image may have nothing there. */
const unlessMissing = (error: unknown): void => {
  if (!(error instanceof BrambleError && error.code === 'file_not_found')) throw error
}
