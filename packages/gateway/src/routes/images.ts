import { isUpload, json, paginate } from '@bramble/http'
import {
  BrambleError,
  type ImageImport,
  imageImportEventSchema,
  imageImportSchema,
  imageParamsSchema,
  imageSchema,
  imageUploadQuerySchema,
  imageView,
  pageQuerySchema,
  pageSchema,
} from '@bramble/protocol'
import { z } from 'zod'
import type { GatewayContext } from '../context.ts'
import { receiveArchive } from '../receive-archive.ts'
import { route } from '../route.ts'

type ImageStore = GatewayContext['engine']['images']
type ImageSource = Parameters<ImageStore['import']>[0]

const tag = 'images'
const ARCHIVES = ['application/x-tar', 'application/gzip', 'application/octet-stream']

const sourceOf = (request: ImageImport): ImageSource => {
  if ('reference' in request) return { kind: 'registry', reference: request.reference, insecure: request.insecure }
  if ('ociArchive' in request) return { kind: 'ociArchive', path: request.ociArchive }
  if ('ociLayout' in request) return { kind: 'ociLayout', path: request.ociLayout }
  if ('rootfsTar' in request) return { kind: 'rootfsTar', path: request.rootfsTar }
  return { kind: 'dockerDaemon', reference: request.dockerImage }
}

const list = route({
  method: 'GET',
  path: '/api/v1/images',
  tag,
  summary: 'List the images of this node',
  scope: 'read',
  query: pageQuerySchema,
  answer: { status: 200, description: 'A page', schema: pageSchema(imageSchema) },
  errors: [],
  handle: async (call, { engine }) => {
    const page = paginate(engine.images.list(), (image) => image.digest, call.query)
    return json(200, { ...page, items: page.items.map(imageView) })
  },
})

const add = route({
  method: 'POST',
  path: '/api/v1/images',
  tag,
  summary: 'Import an image: from a registry, a path of the host, a Docker daemon, or the request body',
  description:
    'As JSON, it names the source. With an archive as the body (`application/x-tar`), `?format=` says what it is and `?name=` what to call it. With `Accept: text/event-stream` the progress is streamed.',
  scope: 'admin',
  query: z.union([z.strictObject({}), imageUploadQuerySchema]),
  body: imageImportSchema,
  upload: ARCHIVES,
  answer: { status: 201, description: 'The image', schema: imageSchema },
  events: imageImportEventSchema,
  errors: ['image_invalid', 'image_pull_failed', 'unsupported', 'body_too_large', 'queue_full'],
  idempotent: true,
  handle: async (call, context) => {
    const uploading = isUpload(add, call.request)
    if (!uploading && Object.keys(call.query).length > 0)
      throw new BrambleError('invalid_request', { detail: 'the query is for an archive in the body' })
    const upload = uploading ? imageUploadQuerySchema.parse(call.query) : undefined
    if (upload?.format === 'rootfsTar' && upload.name === undefined)
      throw new BrambleError('invalid_request', { detail: '`name`: a rootfs has no name of its own' })
    const stream = call.streaming ? call.openStream() : undefined
    const progress = (phase: string, message: string, fraction?: number): void => {
      void stream?.send('progress', JSON.stringify({ type: 'progress', phase, message, fraction }))
    }
    if (upload) progress('upload', 'receiving the archive')
    const { raw } = call.request
    const declaredBytes = Number(raw.headers['content-length'] ?? 0)
    // Kept open on failure: the answer still has to go out on the same connection.
    const body = raw.iterator({ destroyOnReturn: false })
    await using archive = upload && (await receiveArchive(body, { ...context, declaredBytes }, call.signal))
    const source = archive ? { kind: upload.format, path: archive.path } : sourceOf(call.body)
    const image = imageView(
      await context.engine.images.import(source, {
        name: upload ? upload.name : call.body.name,
        signal: call.signal,
        onProgress: ({ phase, message, fraction }) => progress(phase, message, fraction),
      }),
    )
    await stream?.send('image', JSON.stringify({ type: 'image', image }))
    return json(201, image)
  },
  replay: async (first, call) => {
    const stream = call.openStream()
    const { text } = await first.answer()
    await stream.send('image', `{"type":"image","image":${text}}`)
  },
})

const remove = route({
  method: 'DELETE',
  path: '/api/v1/images/:digest',
  tag,
  summary: 'Remove an image that nothing uses',
  scope: 'admin',
  params: imageParamsSchema,
  answer: { status: 204, description: 'It is gone' },
  errors: ['image_not_found', 'image_in_use'],
  handle: async (call, { engine }) => {
    await engine.images.remove(call.params.digest, { inUse: () => false })
    return { status: 204 }
  },
})

export const imageRoutes = [list, add, remove]
