import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { pipeline } from 'node:stream/promises'
import { type ByteBudget, spend } from './byte-budget.ts'
import { checkEntry, type LayerState } from './check-entry.ts'
import { decompress } from './decompress.ts'
import { imageInvalid } from './image-errors.ts'
import { readTar } from './read-tar.ts'
import type { ImageTools } from './run-tool.ts'
import { BLOCK_BYTES } from './tar-header.ts'

/** What an entry costs on disk beside its bytes: an inode, and a block not filled. */
const ENTRY_BYTES = 512
const WRITE_BUFFER_BYTES = 1024 * 1024

export interface EntryBudget {
  readonly maxEntries: number
  usedEntries: number
}

export interface WriteLayerOptions {
  readonly bytes: ByteBudget
  readonly entries: EntryBudget
  readonly tools: Pick<ImageTools, 'xz'>
  readonly signal?: AbortSignal | undefined
}

export interface WrittenLayer {
  /** SHA-256 of the plain archive as it came, in hex: the layer's diff id. */
  readonly diffId: string
  /** SHA-256 and size of what was written. */
  readonly sha256: string
  readonly sizeBytes: number
  readonly entryCount: number
}

/**
 * Reads a layer (plain or compressed), checks every entry, and writes a plain archive of what passed to `path`. Device
 * nodes are left out; everything else that does not pass is `image_invalid`. Only what is written here is unpacked.
 */
export const writeLayer = async (
  source: AsyncIterable<Buffer>,
  path: string,
  options: WriteLayerOptions,
): Promise<WrittenLayer> => {
  const original = createHash('sha256')
  const written = createHash('sha256')
  let sizeBytes = 0
  const before = options.entries.usedEntries

  async function* counted(): AsyncGenerator<Buffer> {
    for await (const chunk of decompress(source, options.tools, options.signal)) {
      spend(options.bytes, chunk.length)
      original.update(chunk)
      yield chunk
    }
  }
  async function* checked(): AsyncGenerator<Buffer> {
    for await (const chunk of checkedLayer(counted(), options)) {
      written.update(chunk)
      sizeBytes += chunk.length
      yield chunk
    }
  }
  await pipeline(
    checked,
    createWriteStream(path, { flags: 'wx', mode: 0o600, highWaterMark: WRITE_BUFFER_BYTES }),
    options.signal ? { signal: options.signal } : {},
  )
  return {
    diffId: original.digest('hex'),
    sha256: written.digest('hex'),
    sizeBytes,
    entryCount: options.entries.usedEntries - before,
  }
}

async function* checkedLayer(plain: AsyncIterable<Buffer>, options: WriteLayerOptions): AsyncGenerator<Buffer> {
  const state: LayerState = { links: new Set() }
  for await (const entry of readTar(plain)) {
    options.entries.usedEntries++
    if (options.entries.usedEntries > options.entries.maxEntries) {
      throw imageInvalid(`it has more than ${options.entries.maxEntries} entries (maxImageEntries)`)
    }
    spend(options.bytes, ENTRY_BYTES)
    checkEntry(entry, state)
    if (entry.type === 'device') continue
    yield entry.header
    yield* entry.body
    const padding = (BLOCK_BYTES - (entry.sizeBytes % BLOCK_BYTES)) % BLOCK_BYTES
    if (padding > 0) yield Buffer.alloc(padding)
  }
  yield Buffer.alloc(2 * BLOCK_BYTES)
}
