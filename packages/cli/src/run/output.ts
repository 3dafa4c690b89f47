/** Writes to the streams of this process at the pace of whoever reads them. */
export interface Output {
  /** Resolves when more may be written. After the reader has gone it does nothing. */
  write(to: 'stdout' | 'stderr', data: string | Uint8Array): Promise<void> | undefined
  /** Aborts when whoever read standard output has gone (`| head`). */
  readonly readerGone: AbortSignal
}

export const processOutput = (): Output => {
  const gone = new AbortController()
  process.stdout.on('error', (error: NodeJS.ErrnoException) => gone.abort(error))
  process.stderr.on('error', () => undefined)
  const drained = (stream: NodeJS.WriteStream): Promise<void> =>
    new Promise((resolve) => {
      const done = (): void => {
        stream.off('drain', done)
        stream.off('close', done)
        stream.off('error', done)
        resolve()
      }
      stream.on('drain', done)
      stream.on('close', done)
      stream.on('error', done)
    })
  return {
    readerGone: gone.signal,
    write: (to, data) => {
      const stream = to === 'stdout' ? process.stdout : process.stderr
      if (stream.destroyed || (to === 'stdout' && gone.signal.aborted)) return undefined
      return stream.write(data) ? undefined : drained(stream)
    },
  }
}
