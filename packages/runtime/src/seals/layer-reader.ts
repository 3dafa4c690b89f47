import { BrambleError } from '@bramble/protocol'
import { type LayersProgram, startLayersProgram } from './layers-program.ts'
import type { BytePath } from './seals.ts'

const REQUEST_BYTES = 16
const ANSWER_BYTES = 16
/** `errno` of Linux. */
const ENOENT = 2
const ENOTDIR = 20
const ELOOP = 40
const EINVAL = 22
const NOT_THERE: ReadonlySet<number> = new Set([ENOENT, ENOTDIR, ELOOP, EINVAL])

export interface Part {
  /** Of the whole file. */
  readonly sizeBytes: number
  readonly data: Buffer
}

/** Parts of files of one directory, by a process that serves any number of requests, in their order. */
export interface LayerReader {
  /** At most 1 MiB. Rejects with `file_not_found` where no regular file is, or a link leads there. */
  part(path: BytePath, offset: number, length: number): Promise<Part>
  /** Resolves when its process is gone: until then it holds the directory. */
  close(): Promise<void>
}

export const openLayerReader = (directory: string): LayerReader => {
  const program = startLayersProgram(['read', directory])
  const waiting: { path: BytePath; answer: PromiseWithResolvers<Part> }[] = []
  let over: BrambleError | undefined
  void readAnswers(program, (error, part) => {
    const first = waiting.shift()
    if (error === 0) first?.answer.resolve(part)
    else first?.answer.reject(failureOf(first.path, error))
  })
    .catch((cause: unknown) => String(cause))
    .then(async (why) => {
      const said = await program.ended
      over = new BrambleError('store_unavailable', { detail: `files of a layer cannot be read: ${said || why}` })
      for (const { answer } of waiting.splice(0)) answer.reject(over)
    })
  return {
    part: (path, offset, length) => {
      if (over) return Promise.reject(over)
      const bytes = Buffer.from(path, 'latin1')
      const request = Buffer.alloc(REQUEST_BYTES + bytes.length)
      request.writeUInt32LE(bytes.length, 0)
      request.writeUInt32LE(length, 4)
      request.writeBigUInt64LE(BigInt(offset), 8)
      bytes.copy(request, REQUEST_BYTES)
      const answer = Promise.withResolvers<Part>()
      waiting.push({ path, answer })
      program.stdin.write(request)
      return answer.promise
    },
    close: async () => {
      program.kill()
      await program.ended
    },
  }
}

const failureOf = (path: BytePath, error: number): BrambleError => {
  const text = JSON.stringify(Buffer.from(path, 'latin1').toString().slice(0, 200))
  return NOT_THERE.has(error)
    ? new BrambleError('file_not_found', { detail: `there is no file ${text} in the layer` })
    : new BrambleError('store_unavailable', { detail: `${text} of a layer cannot be read: error ${error}` })
}

/** Calls back for every answer, and resolves when there are no more. */
const readAnswers = async (program: LayersProgram, answered: (error: number, part: Part) => void): Promise<string> => {
  const header = Buffer.alloc(ANSWER_BYTES)
  let data: Buffer | undefined
  let have = 0
  const answer = (bytes: Buffer): void =>
    answered(header.readUInt32LE(0), { sizeBytes: Number(header.readBigUInt64LE(8)), data: bytes })
  for await (const chunk of program.stdout as AsyncIterable<Buffer>) {
    for (let at = 0; at < chunk.length; ) {
      const target: Buffer = data ?? header
      const copied = chunk.copy(target, have, at)
      at += copied
      have += copied
      if (have < target.length) break
      have = 0
      if (data !== undefined) {
        answer(data)
        data = undefined
        continue
      }
      const bytes = header.readUInt32LE(4)
      if (at + bytes <= chunk.length) {
        // As it came: small files need no copy.
        answer(chunk.subarray(at, at + bytes))
        at += bytes
      } else data = Buffer.allocUnsafe(bytes)
    }
  }
  return 'its program ended'
}
