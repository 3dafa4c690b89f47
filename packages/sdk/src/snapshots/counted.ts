/** The same bytes, each piece told as it goes by; at the pace of whoever reads. */
export const counted = (
  stream: ReadableStream<Uint8Array>,
  onBytes: ((bytes: number) => void) | undefined,
): ReadableStream<Uint8Array> => {
  if (onBytes === undefined) return stream
  const count = new TransformStream<Uint8Array, Uint8Array>(
    {
      transform: (piece, controller) => {
        onBytes(piece.length)
        controller.enqueue(piece)
      },
    },
    { highWaterMark: 1 },
    { highWaterMark: 0 },
  )
  return stream.pipeThrough(count)
}
