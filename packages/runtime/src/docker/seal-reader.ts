import type Docker from 'dockerode'
import { readTar } from '../images/read-tar.ts'
import type { BytePath, LayerEntry } from '../seals/seals.ts'
import { NODE_LABEL, READER_LABEL } from './container.ts'
import { removeContainer } from './sandbox.ts'
import { readSavedLayers } from './saved-layers.ts'
import { type SealEngine, type SealImage, unavailable } from './seal-images.ts'

const IDLE_MS = 5000

/** What is in one seal, for as long as it is asked for. */
interface Reader {
  readonly entries: Promise<readonly LayerEntry[]>
  readonly files: Promise<ReadonlyMap<BytePath, BytePath>>
  container?: Promise<Docker.Container>
  users: number
  timer?: NodeJS.Timeout
}

/** Reads seals in the engine: what is in one by its saved image, a file by a container of it that never runs. */
export interface SealReaders {
  entries(image: SealImage, signal?: AbortSignal): Promise<readonly LayerEntry[]>
  /** Undefined where no regular file of the layer is. */
  read(image: SealImage, path: BytePath, signal?: AbortSignal): Promise<AsyncIterable<Uint8Array> | undefined>
  /** Whether a container is one of these. */
  owns(containerId: string): boolean
  close(): Promise<void>
}

export const sealReaders = (context: SealEngine): SealReaders => {
  const { engine, node } = context
  const readers = new Map<string, Reader>()
  const containers = new Set<string>()

  const drop = async (id: string): Promise<void> => {
    const reader = readers.get(id)
    readers.delete(id)
    clearTimeout(reader?.timer)
    const container = await reader?.container?.catch(() => undefined)
    if (!container) return
    await removeContainer(container)
    containers.delete(container.id)
  }
  const use = async <T>(image: SealImage, act: (reader: Reader) => Promise<T>): Promise<T> => {
    const reader = readers.get(image.id) ?? open(image)
    readers.set(image.id, reader)
    clearTimeout(reader.timer)
    reader.users++
    try {
      return await act(reader)
    } catch (error) {
      throw unavailable(error)
    } finally {
      reader.users--
      leave(image.id, reader)
    }
  }
  const leave = (id: string, reader: Reader): void => {
    if (reader.users > 0 || readers.get(id) !== reader) return
    // What cannot be removed now is removed by `reap`.
    reader.timer = setTimeout(() => void drop(id).catch(() => {}), IDLE_MS)
    reader.timer.unref()
  }
  const open = (image: SealImage): Reader => {
    const entries = savedLayers(engine, image)
    const files = entries.then(filesOf)
    const forget = () => void readers.delete(image.id)
    files.catch(forget)
    return { entries, files, users: 0 }
  }
  const containerOf = (image: SealImage, reader: Reader): Promise<Docker.Container> => {
    reader.container ??= engine
      .createContainer({
        Image: image.id,
        Entrypoint: ['/never'],
        NetworkDisabled: true,
        Labels: { [NODE_LABEL]: node, [READER_LABEL]: 'true' },
      })
      .then((container) => {
        containers.add(container.id)
        return container
      })
    return reader.container
  }

  return {
    entries: (image, signal) => {
      signal?.throwIfAborted()
      return use(image, ({ entries }) => entries)
    },
    read: (image, path, signal) =>
      use(image, async (reader) => {
        signal?.throwIfAborted()
        const file = (await reader.files).get(path)
        if (file === undefined) return undefined
        const container = await containerOf(image, reader)
        const archive = await fetchArchive(container, file, signal)
        reader.users++
        return content(archive, () => {
          reader.users--
          leave(image.id, reader)
        })
      }),
    owns: (containerId) => containers.has(containerId),
    close: async () => {
      await Promise.all([...readers.keys()].map(drop))
    },
  }
}

const savedLayers = async (engine: Docker, image: SealImage): Promise<readonly LayerEntry[]> => {
  const saved = await engine.getImage(image.id).get()
  return await readSavedLayers(saved as unknown as AsyncIterable<Buffer>, image.baseLayers)
}

/** Every name of a regular file, and the one that it is found by. */
const filesOf = (entries: readonly LayerEntry[]): ReadonlyMap<BytePath, BytePath> =>
  new Map(
    entries.flatMap(({ path, type }, index) => {
      const entry = entries[index]
      if (type === 'file') return [[path, path]]
      return entry?.type === 'link' ? [[path, entry.target]] : []
    }),
  )

/** `GET /containers/ID/archive`; the library could say no path that is not UTF-8. */
const fetchArchive = (
  container: Docker.Container,
  path: BytePath,
  signal?: AbortSignal,
): Promise<AsyncIterable<Buffer>> =>
  new Promise((resolve, reject) => {
    const bytes = Buffer.from(`/${path}`, 'latin1')
    const query = [...bytes].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')
    const request = {
      // It takes off the last character where there are no options.
      path: `/containers/${container.id}/archive?path=${query}?`,
      method: 'GET',
      isStream: true,
      abortSignal: signal,
      statusCodes: { 200: true, 400: 'bad request', 404: 'no such file', 500: 'server error' },
    }
    container.modem.dial(request, (error: unknown, stream: unknown) => {
      if (error) reject(error)
      else resolve(stream as AsyncIterable<Buffer>)
    })
  })

async function* content(archive: AsyncIterable<Buffer>, done: () => void): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    for await (const entry of readTar(archive)) {
      yield* entry.body
      return
    }
  } finally {
    done()
  }
}
