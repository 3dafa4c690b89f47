import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { constants, createZstdDecompress } from 'node:zlib'
import { abortable } from '@bramble/blobs'
import { refused } from './tar.ts'

const MAGIC = Buffer.from([0x28, 0xb5, 0x2f, 0xfd])
/** 16 MiB, what a frame may ask the reader to keep: more than any level of zstd asks for by itself. */
const maxWindowLog = 24

/**
 * The bytes of a file that may be compressed by zstd, as they come: how many there are is for the reader to bound. It ends at once
 * when the signal is aborted, and closes the source however it ends.
 */
export async function* decompressed(
  source: AsyncIterable<Uint8Array>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array, void, undefined> {
  let failure: { readonly thrown: unknown } | undefined
  const noted = async function* (): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      yield* abortable(source, signal)
    } catch (thrown) {
      failure = { thrown }
      throw thrown
    }
  }
  const iterator = noted()
  const first: Uint8Array[] = []
  const peeked = async function* (): AsyncGenerator<Uint8Array, void, undefined> {
    yield* first
    yield* iterator
  }
  try {
    let length = 0
    while (length < MAGIC.length) {
      const next = await iterator.next()
      if (next.done) break
      first.push(next.value)
      length += next.value.length
    }
    const isZstd = Buffer.concat(first).subarray(0, MAGIC.length).equals(MAGIC)
    yield* isZstd ? unpacked(peeked(), signal) : peeked()
  } catch (thrown) {
    signal?.throwIfAborted()
    if (failure !== undefined) throw failure.thrown
    const code = thrown instanceof Error && 'code' in thrown ? String(thrown.code) : ''
    throw /^Z(STD)?_/.test(code) ? refused('its compression is damaged, or of another kind', thrown) : thrown
  } finally {
    await iterator.return()
  }
}

async function* unpacked(
  source: AsyncGenerator<Uint8Array>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array, void, undefined> {
  const zstd = createZstdDecompress({ params: { [constants.ZSTD_d_windowLogMax]: maxWindowLog } })
  let givenBytes = 0
  const counted = async function* (): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const piece of source) {
      givenBytes += piece.length
      yield piece
    }
  }
  const running = pipeline(Readable.from(counted(), { objectMode: false }), zstd, { signal })
  running.catch(() => undefined)
  try {
    yield* zstd
    await running
    // The decoder says nothing of what follows the frame.
    if (zstd.bytesWritten !== givenBytes) throw refused('there is something after the end')
  } finally {
    zstd.destroy()
    await running.catch(() => undefined)
  }
}
