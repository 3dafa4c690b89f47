import { Duplex } from 'node:stream'

/** Of the agent's standard error, which is for people: the last bytes are kept. */
const MAX_STDERR_BYTES = 4096
const HEADER_BYTES = 8
const STDERR = 2

export interface Demultiplexed {
  readonly stream: Duplex
  /** What standard error said last. */
  stderr(): string
}

/**
 * An attached container's stream (Docker Engine API, "Stream format"): frames of `type, 0, 0, 0, length (big-endian)` and
 * a payload, as a duplex of standard output and standard input. It takes no more from the engine than is read from it.
 */
export const demultiplex = (attached: NodeJS.ReadWriteStream): Demultiplexed => {
  const header = Buffer.alloc(HEADER_BYTES)
  let headerBytes = 0
  let payloadBytes = 0
  let stderr: Buffer = Buffer.alloc(0)

  const take = (data: Buffer): boolean => {
    let more = true
    for (let at = 0; at < data.length; ) {
      if (payloadBytes === 0) {
        const copied = data.copy(header, headerBytes, at, at + HEADER_BYTES - headerBytes)
        headerBytes += copied
        at += copied
        if (headerBytes < HEADER_BYTES) break
        headerBytes = 0
        payloadBytes = header.readUInt32BE(4)
        continue
      }
      const piece = data.subarray(at, at + payloadBytes)
      at += piece.length
      payloadBytes -= piece.length
      if (header[0] === STDERR) stderr = Buffer.concat([stderr, piece]).subarray(-MAX_STDERR_BYTES)
      else more = stream.push(piece) && more
    }
    return more
  }

  const stream = new Duplex({
    read: () => {
      attached.resume()
    },
    write: (data, _encoding, done) => {
      attached.write(data, () => done())
    },
    final: (done) => {
      attached.end(() => done())
    },
    destroy: (error, done) => {
      ;(attached as Duplex).destroy()
      done(error)
    },
  })
  attached.on('data', (data: Buffer) => {
    if (!take(data)) attached.pause()
  })
  attached.on('end', () => stream.push(null))
  attached.on('close', () => stream.destroy())
  attached.on('error', (error) => stream.destroy(error))
  return { stream, stderr: () => stderr.toString('utf8').trim() }
}
