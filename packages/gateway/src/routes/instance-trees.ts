import { createGzip } from 'node:zlib'
import type { InstanceLease } from '@bramble/engine'
import { drainBriefly, json, receiveBytes, sendBytes } from '@bramble/http'
import {
  BrambleError,
  instanceParamsSchema,
  type TreeUploadResult,
  treeDownloadQuerySchema,
  treeUploadQuerySchema,
  treeUploadResultSchema,
} from '@bramble/protocol'
import type { FastifyRequest } from 'fastify'
import type { GatewayContext } from '../context.ts'
import { receiveForm } from '../files/receive-form.ts'
import { gunzip, insideOf, through } from '../files/unpack.ts'
import { queryPathOf } from '../files/url-bytes.ts'
import { zipToTar } from '../files/zip-to-tar.ts'
import { receiveArchive } from '../receive-archive.ts'
import { route } from '../route.ts'

const tag = 'files'
const params = instanceParamsSchema
const GONE = ['not_found', 'conflict', 'instance_stopped', 'sandbox_died'] as const
const FILE = [...GONE, 'file_not_found', 'file_refused'] as const

const TARS = ['application/x-tar', 'application/gzip', 'application/x-gzip'] as const
const ZIPS = ['application/zip', 'application/x-zip-compressed'] as const
const FORM = 'multipart/form-data'

const mediaTypeOf = ({ headers }: FastifyRequest): string =>
  headers['content-type']?.split(';')[0]?.trim().toLowerCase() ?? ''

const pathOf = (request: FastifyRequest): Buffer => {
  const path = queryPathOf(request.originalUrl, 'path')
  if (!path) throw new BrambleError('invalid_request', { detail: '`path`: is to be given once' })
  return path
}

interface Upload {
  readonly request: FastifyRequest
  readonly files: InstanceLease['files']
  readonly directory: Buffer
  readonly options: { user?: string; signal: AbortSignal }
  readonly body: AsyncIterable<Buffer>
  readonly context: GatewayContext
}

const receiveTar = ({ request, files, directory, options, body, context }: Upload): Promise<TreeUploadResult> => {
  const coding = request.headers['content-encoding'] ?? 'identity'
  if (coding !== 'identity' && coding !== 'gzip')
    throw new BrambleError('unsupported_media_type', { detail: `content-encoding \`${coding}\` is not read` })
  const packed = coding === 'gzip' || mediaTypeOf(request) !== 'application/x-tar'
  const archive = packed ? gunzip(body, context.limits.maxUnpackedBytes) : body
  return files.writeTree(directory, archive, options)
}

const receiveZip = async ({ request, files, directory, options, body, context }: Upload): Promise<TreeUploadResult> => {
  const declaredBytes = Number(request.headers['content-length'] ?? 0)
  await using archive = await receiveArchive(body, { ...context, declaredBytes }, options.signal)
  return await files.writeTree(directory, zipToTar(archive.path, context.limits, options.signal), options)
}

const receiveFiles = async ({
  request,
  files,
  directory,
  options,
  body,
  context,
}: Upload): Promise<TreeUploadResult> => {
  const sum = { files: 0, bytes: 0, skipped: 0 }
  await receiveForm(request.headers, body, context.limits.maxArchiveEntries, async ({ name, content }) => {
    const { sizeBytes } = await files.write(insideOf(directory, name), content, options)
    sum.files++
    sum.bytes += sizeBytes
  })
  return sum
}

const upload = route({
  method: 'POST',
  path: '/api/v1/instances/:id/upload',
  tag,
  summary: 'Unpack a tree below a directory: a tar, a zip, or the files of a form',
  description:
    'The directory is made where it is not there. Tar: ustar, pax or GNU, as it is or by gzip (`application/gzip`, or `content-encoding: gzip`). A form: each part is a file, named by its file name. Names that lead out of the directory are refused, and nothing after them is written.',
  scope: 'execute',
  params,
  query: treeUploadQuerySchema,
  upload: [...TARS, ...ZIPS, FORM],
  answer: { status: 200, description: 'What was written', schema: treeUploadResultSchema },
  errors: [...FILE, 'unsupported_media_type', 'body_too_large', 'request_timeout', 'queue_full'],
  handle: async (call, context) => {
    const { request, signal } = call
    const { user } = call.query
    try {
      const directory = pathOf(request)
      using lease = await context.engine.instances.use(call.params.id, call.caller.tenant, { signal })
      const type = mediaTypeOf(request)
      const receive = type === FORM ? receiveFiles : ZIPS.some((zip) => zip === type) ? receiveZip : receiveTar
      const result = await receive({
        request,
        files: lease.files,
        directory,
        options: { signal, ...(user !== undefined && { user }) },
        body: receiveBytes(request.raw, {
          stallTimeoutMs: context.limits.uploadStallMs,
          count: context.countOutput,
        }),
        context,
      })
      return json(200, result)
    } catch (error) {
      await drainBriefly(request.raw)
      throw error
    }
  },
})

const download = route({
  method: 'GET',
  path: '/api/v1/instances/:id/download',
  tag,
  summary: 'Download a file or a tree as a tar',
  description: 'pax (POSIX.1-2001), with names relative to `path`; by gzip with `gzip=true`.',
  scope: 'read',
  params,
  query: treeDownloadQuerySchema,
  answer: { status: 200, description: 'The archive', mediaType: 'application/x-tar' },
  errors: FILE,
  handle: async (call, { engine, limits, countOutput }) => {
    const { signal, request } = call
    const { gzip, user } = call.query
    const path = pathOf(request)
    using lease = await engine.instances.use(call.params.id, call.caller.tenant, { signal })
    const tree = lease.files.readTree(path, { signal, ...(user !== undefined && { user }) })
    return await sendBytes(call.reply, {
      status: 200,
      headers: {
        'content-type': gzip ? 'application/gzip' : 'application/x-tar',
        'content-disposition': 'attachment',
      },
      body: gzip ? through(tree, createGzip({ level: 1 })) : tree,
      stallTimeoutMs: limits.stallTimeoutMs,
      count: countOutput,
    })
  },
})

export const instanceTreeRoutes = [upload, download]
