import type { Content } from '../transport.ts'

/** What a file can be written from: a whole, or what comes piece by piece and is never held as a whole. */
export type FileSource = string | Uint8Array | Blob | ReadableStream<Uint8Array> | AsyncIterable<Uint8Array | string>

/** As `fetch` sends it. */
export const contentOf = (source: FileSource): Content => {
  if (typeof source === 'string') return new TextEncoder().encode(source)
  if (source instanceof Uint8Array) return source as Uint8Array<ArrayBuffer>
  if (source instanceof Blob || source instanceof ReadableStream) return source
  return streamOf(source)
}

/** At the pace of whoever reads it. */
export const streamOf = (source: AsyncIterable<Uint8Array | string>): ReadableStream<Uint8Array<ArrayBuffer>> => {
  const pieces = source[Symbol.asyncIterator]()
  const encoder = new TextEncoder()
  return new ReadableStream(
    {
      async pull(controller) {
        const { done, value } = await pieces.next()
        if (done) return controller.close()
        controller.enqueue(typeof value === 'string' ? encoder.encode(value) : (value as Uint8Array<ArrayBuffer>))
      },
      async cancel(reason) {
        await pieces.return?.(reason)
      },
    },
    { highWaterMark: 0 },
  )
}
