import { drainBriefly, json, receiveBytes } from '@bramble/http'
import {
  BrambleError,
  fileChangeQuerySchema,
  fileDeleteQuerySchema,
  fileEntrySchema,
  fileListSchema,
  fileLookQuerySchema,
  fileReadQuerySchema,
  fileWriteQuerySchema,
  instanceParamsSchema,
  LIMITS,
} from '@bramble/protocol'
import type { FastifyRequest } from 'fastify'
import { z } from 'zod'
import { fileEntry } from '../files/entries.ts'
import { sendFile } from '../files/send-file.ts'
import { filePathOf, queryPathOf } from '../files/url-bytes.ts'
import { route } from '../route.ts'

const tag = 'files'
const params = instanceParamsSchema
const path = '/api/v1/instances/:id/files'
const GONE = ['not_found', 'conflict', 'instance_stopped', 'sandbox_died'] as const
const FILE = [...GONE, 'file_not_found', 'file_refused'] as const

const read = (method: 'GET' | 'HEAD') =>
  route({
    method,
    path: `${path}/*`,
    tag,
    summary: method === 'GET' ? 'Read a file, or a range of it' : 'What reading a file would answer, without its bytes',
    description:
      'One `Range` is heeded (RFC 9110), with `If-Range`; `If-None-Match` too. `x-bramble-mode` (octal), `x-bramble-uid` and `x-bramble-gid` tell the rest of the file. A directory is `file_refused`: list it.',
    scope: 'read',
    params,
    query: fileReadQuerySchema,
    answer: { status: 200, description: 'Its bytes', mediaType: 'application/octet-stream' },
    errors: [...FILE, 'range_not_satisfiable'],
    handle: async (call, { engine, limits, countOutput }) => {
      const { signal } = call
      const file = filePathOf(call.request.originalUrl)
      using lease = await engine.instances.use(call.params.id, call.caller.tenant, { signal })
      const { stallTimeoutMs } = limits
      return await sendFile(call, lease.files, {
        path: file,
        user: call.query.user,
        stallTimeoutMs,
        count: countOutput,
      })
    },
  })

const write = route({
  method: 'PUT',
  path: `${path}/*`,
  tag,
  summary: 'Write a file from the body, whatever its type and size',
  description:
    'Whole or not at all: a client that vanishes leaves the file as it was. Folders on the way are made. `mode` (octal) is that of a new file, 0644 by default; without it a file that is there keeps its own. Nothing sent for a minute ends the upload.',
  scope: 'execute',
  params,
  query: fileWriteQuerySchema,
  upload: ['*'],
  answer: { status: 200, description: 'The file', schema: fileEntrySchema },
  errors: [...FILE, 'request_timeout'],
  handle: async (call, { engine, limits, countOutput }) => {
    const { raw } = call.request
    const { mode, user } = call.query
    try {
      refuseCoding(call.request)
      const file = filePathOf(call.request.originalUrl)
      using lease = await engine.instances.use(call.params.id, call.caller.tenant, { signal: call.signal })
      const content = receiveBytes(raw, { stallTimeoutMs: limits.uploadStallMs, count: countOutput })
      const options = { signal: call.signal, ...(mode !== undefined && { mode }), ...(user !== undefined && { user }) }
      return json(200, fileEntry(await lease.files.write(file, content, options)))
    } catch (error) {
      await drainBriefly(raw)
      throw error
    }
  },
})

const refuseCoding = ({ headers }: FastifyRequest): void => {
  const coding = headers['content-encoding']
  if (coding === undefined || coding === 'identity') return
  throw new BrambleError('unsupported_media_type', { detail: `content-encoding \`${coding}\` is not read` })
}

const remove = route({
  method: 'DELETE',
  path: `${path}/*`,
  tag,
  summary: 'Delete a file, or a directory: an empty one, or with `recursive=true` all of it',
  scope: 'execute',
  params,
  query: fileDeleteQuerySchema,
  answer: { status: 204, description: 'It is gone' },
  errors: FILE,
  handle: async (call, { engine }) => {
    const { signal } = call
    const file = filePathOf(call.request.originalUrl)
    using lease = await engine.instances.use(call.params.id, call.caller.tenant, { signal })
    await lease.files.remove(file, { ...call.query, signal })
    return { status: 204 }
  },
})

/** The bytes of a path in the query. The schema has seen that it is there. */
const pathIn = (request: FastifyRequest, name: string): Buffer => {
  const bytes = queryPathOf(request.originalUrl, name)
  if (!bytes) throw new BrambleError('invalid_request', { detail: `\`${name}\`: is to be given once` })
  return bytes
}

const look = route({
  method: 'GET',
  path,
  tag,
  summary: 'List a directory (`list`), or show one entry (`stat`)',
  description: `\`list\`: sorted by name, with \`recursive=true\` the whole tree; at most ${LIMITS.maxListedFiles.value} entries, then \`truncated\` is set. \`stat\`: the entry alone.`,
  scope: 'read',
  params,
  query: fileLookQuerySchema,
  answer: { status: 200, description: 'The entries, or the entry', schema: z.union([fileListSchema, fileEntrySchema]) },
  errors: FILE,
  handle: async ({ params: { id }, query, caller, signal, request }, { engine }) => {
    using lease = await engine.instances.use(id, caller.tenant, { signal })
    const { user } = query
    if ('stat' in query) {
      const { followLinks } = query
      return json(200, fileEntry(await lease.files.stat(pathIn(request, 'stat'), { followLinks, user, signal })))
    }
    const max = LIMITS.maxListedFiles.value
    const { recursive } = query
    const found = await lease.files.list(pathIn(request, 'list'), { recursive, max, user, signal })
    return json(200, { items: found.items.map(fileEntry), truncated: found.truncated })
  },
})

const alter = route({
  method: 'POST',
  path,
  tag,
  summary: 'Change one entry: `mkdir`, `move` and `to`, `chmod`, `chown` or `touch`',
  description:
    'The parameter that names the change has the path: `?mkdir=/a/b&parents=true`, `?move=/a&to=/b`, `?chmod=/a&mode=0755`, `?chown=/a&uid=1000&gid=1000`, `?touch=/a&modifiedAt=2026-01-01T00:00:00Z`. `move` replaces a file at `to`, never a directory that is not empty.',
  scope: 'execute',
  params,
  query: fileChangeQuerySchema,
  answer: { status: 200, description: 'The entry, after it', schema: fileEntrySchema },
  errors: FILE,
  handle: async ({ params: { id }, query, caller, signal, request }, { engine }) => {
    using lease = await engine.instances.use(id, caller.tenant, { signal })
    const { files } = lease
    const who = { user: query.user, signal }
    const changed = async (file: Buffer) => json(200, fileEntry(await files.stat(file, who)))
    if ('mkdir' in query) {
      const directory = pathIn(request, 'mkdir')
      const { parents, mode } = query
      await files.makeDirectory(directory, { parents, ...(mode !== undefined && { mode }), ...who })
      return changed(directory)
    }
    if ('move' in query) {
      const to = pathIn(request, 'to')
      await files.move(pathIn(request, 'move'), to, who)
      return changed(to)
    }
    if ('chmod' in query) {
      const file = pathIn(request, 'chmod')
      await files.setAttributes(file, { mode: query.mode }, who)
      return changed(file)
    }
    if ('chown' in query) {
      const file = pathIn(request, 'chown')
      await files.setAttributes(file, { owner: { uid: query.uid, gid: query.gid } }, who)
      return changed(file)
    }
    const file = pathIn(request, 'touch')
    const modifiedAtMs = query.modifiedAt === undefined ? Date.now() : Date.parse(query.modifiedAt)
    await files.setAttributes(file, { modifiedAtMs }, who)
    return changed(file)
  },
})

export const instanceFileRoutes = [read('GET'), read('HEAD'), write, remove, look, alter]
