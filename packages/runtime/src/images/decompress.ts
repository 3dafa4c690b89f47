import { Readable } from 'node:stream'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { imageInvalid } from './image-errors.ts'
import { type ImageTools, lastWords, startTool } from './run-tool.ts'

const GZIP = Buffer.from([0x1f, 0x8b])
const ZSTD = Buffer.from([0x28, 0xb5, 0x2f, 0xfd])
const XZ = Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00])
/** What xz may take; its strongest preset needs 65 MiB to decompress. */
const XZ_MEMORY_MIB = 256

/**
 * The plain bytes of `source`, whether it is plain, gzip, zstd or xz: told by its first bytes, not by its name. Damaged
 * and truncated streams throw `image_invalid`. Nothing here bounds the size: the reader does.
 */
export async function* decompress(
  source: AsyncIterable<Buffer>,
  tools: Pick<ImageTools, 'xz'>,
  signal?: AbortSignal,
): AsyncGenerator<Buffer> {
  const chunks = source[Symbol.asyncIterator]()
  let head: Buffer = Buffer.alloc(0)
  while (head.length < XZ.length) {
    const next = await chunks.next()
    if (next.done) break
    head = head.length === 0 ? next.value : Buffer.concat([head, next.value])
  }
  const whole = joined(head, chunks)
  const starts = (magic: Buffer) => head.subarray(0, magic.length).equals(magic)
  if (starts(GZIP)) yield* inflate(whole, createGunzip(), 'gzip')
  else if (starts(ZSTD)) yield* inflate(whole, createZstdDecompress(), 'zstd')
  else if (starts(XZ)) yield* unxz(whole, tools, signal)
  else yield* whole
}

async function* joined(head: Buffer, rest: AsyncIterator<Buffer>): AsyncGenerator<Buffer> {
  try {
    if (head.length > 0) yield head
    for (let next = await rest.next(); !next.done; next = await rest.next()) yield next.value
  } finally {
    await rest.return?.()
  }
}

async function* inflate(
  source: AsyncIterable<Buffer>,
  inflater: ReturnType<typeof createGunzip | typeof createZstdDecompress>,
  format: string,
): AsyncGenerator<Buffer> {
  const input = Readable.from(source, { objectMode: false })
  let failure: unknown
  input.once('error', (cause) => {
    failure = cause
    inflater.destroy()
  })
  input.pipe(inflater)
  try {
    for await (const chunk of inflater) yield chunk
  } catch (cause) {
    throw failure ?? imageInvalid(`its ${format} stream is damaged or cut short`, cause)
  } finally {
    input.destroy()
    inflater.destroy()
  }
}

async function* unxz(
  source: AsyncIterable<Buffer>,
  tools: Pick<ImageTools, 'xz'>,
  signal?: AbortSignal,
): AsyncGenerator<Buffer> {
  const xz = startTool(tools.xz, ['--decompress', '--stdout', `--memlimit=${XZ_MEMORY_MIB}MiB`], { signal })
  const input = Readable.from(source, { objectMode: false })
  let failure: unknown
  input.once('error', (cause) => {
    failure = cause
    xz.kill()
  })
  input.pipe(xz.stdin)
  try {
    for await (const chunk of xz.stdout) yield chunk
    const { exitCode, message } = await xz.ended
    if (failure !== undefined) throw failure
    if (exitCode !== 0) throw imageInvalid(`its xz stream is damaged or cut short: ${lastWords(message)}`)
  } finally {
    input.destroy()
    xz.kill()
    await xz.ended.catch(() => {})
  }
}
