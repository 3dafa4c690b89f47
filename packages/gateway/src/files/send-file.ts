import type { OutgoingHttpHeaders } from 'node:http'
import type { InstanceLease } from '@bramble/engine'
import { type Answer, byteRange, type Call, sendBytes } from '@bramble/http'
import { BrambleError } from '@bramble/protocol'
import { entityTag, type FileInfo } from './entries.ts'

type SandboxFiles = InstanceLease['files']

export interface SendFileOptions {
  readonly path: Buffer
  readonly user: string | undefined
  readonly stallTimeoutMs: number
  /** Told of every piece that went by. */
  readonly count: (bytes: number) => void
}

/** Answers with a file, the range of it that was asked for, or word that the client has it already (RFC 9110). */
export const sendFile = async (
  call: Pick<Call<unknown, unknown, unknown>, 'request' | 'reply' | 'signal'>,
  files: SandboxFiles,
  { path, user, stallTimeoutMs, count }: SendFileOptions,
): Promise<Answer> => {
  const { request, reply, signal } = call
  const { headers } = request
  const options = { signal, ...(user !== undefined && { user }) }
  const send = (status: number, info: FileInfo, rest: Partial<Parameters<typeof sendBytes>[1]> = {}) =>
    sendBytes(reply, { status, stallTimeoutMs, count, ...rest, headers: { ...headersOf(info), ...rest.headers } })

  // The whole of a file needs no look at it before.
  if (request.method === 'GET' && headers.range === undefined && headers['if-none-match'] === undefined) {
    const { info, body } = await files.read(path, options).catch(async (error: unknown) => {
      throw await explained(error, () => files.stat(path, { followLinks: true, ...options }))
    })
    return send(200, info, { length: sizeOf(info), body })
  }
  const info = await files.stat(path, { followLinks: true, ...options })
  if (info.type !== 'file') throw refused(info)
  const tag = entityTag(info)
  if (isOneOf(headers['if-none-match'], tag)) return send(304, info)
  if (request.method === 'HEAD') return send(200, info, { length: info.sizeBytes })
  const range = headers.range !== undefined && isStill(headers['if-range'], tag)
  try {
    const part = range ? byteRange(headers.range ?? '', info.sizeBytes) : undefined
    const { info: now, body } = await files.read(path, { ...part, ...options })
    if (!part) return send(200, now, { length: sizeOf(now), body })
    const contentRange = `bytes ${part.offset}-${part.offset + part.length - 1}/${info.sizeBytes}`
    return await send(206, now, { length: part.length, body, headers: { 'content-range': contentRange } })
  } catch (error) {
    if (error instanceof BrambleError && error.code === 'range_not_satisfiable')
      reply.header('content-range', `bytes */${info.sizeBytes}`)
    throw error
  }
}

/** Files of /proc say that they have none, and have bytes all the same. */
const sizeOf = ({ sizeBytes }: FileInfo): number | undefined => (sizeBytes === 0 ? undefined : sizeBytes)

/** Whoever reads a directory is told what to do with it. */
const explained = async (error: unknown, stat: () => Promise<FileInfo>): Promise<unknown> => {
  if (!(error instanceof BrambleError) || error.code !== 'file_refused') return error
  const info = await stat().catch(() => undefined)
  return info?.type === 'directory' ? refused(info) : error
}

const refused = ({ type }: FileInfo): BrambleError =>
  new BrambleError('file_refused', {
    detail: type === 'directory' ? 'it is a directory: `GET …/files?list=` lists it' : `it is a ${type}`,
  })

const isOneOf = (header: string | undefined, tag: string): boolean =>
  header !== undefined &&
  (header.trim() === '*' || header.split(',').some((one) => one.trim().replace(/^W\//, '') === tag))

/** `If-Range`: the part is wanted of what the client has, else the whole. */
const isStill = (header: string | string[] | undefined, tag: string): boolean => header === undefined || header === tag

/** What comes from a sandbox is never shown as a page of the node's own. */
const headersOf = (info: FileInfo): OutgoingHttpHeaders => ({
  'content-type': 'application/octet-stream',
  'content-disposition': 'attachment',
  'accept-ranges': 'bytes',
  etag: entityTag(info),
  'last-modified': new Date(info.modifiedAtMs).toUTCString(),
  'x-bramble-mode': info.mode.toString(8).padStart(4, '0'),
  'x-bramble-uid': info.uid,
  'x-bramble-gid': info.gid,
})
