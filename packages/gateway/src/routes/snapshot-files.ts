import { boundedBytes, drainBriefly, json, mayDo, receiveBytes, sendBytes } from '@bramble/http'
import {
  BrambleError,
  type Snapshot,
  snapshotExportQuerySchema,
  snapshotImportQuerySchema,
  snapshotParamsSchema,
  snapshotSchema,
} from '@bramble/protocol'
import { route } from '../route.ts'
import { instanceContext } from './instances.ts'

const tag = 'snapshots'
const path = '/api/v1/snapshots'
const OCTETS = 'application/octet-stream'

/** Names of snapshots have no character that a header or a file system reads as anything else. */
const fileNameOf = ({ name, id }: Snapshot): string => `${name ?? id.slice(0, 12)}.bramble`

const exportOne = route({
  method: 'GET',
  path: `${path}/:id/export`,
  tag,
  summary: 'Download a snapshot as one file',
  description: 'All that another node needs to import it, but for its image. `memory=false` leaves its processes out.',
  scope: 'read',
  params: snapshotParamsSchema,
  query: snapshotExportQuerySchema,
  answer: { status: 200, description: 'The file', mediaType: OCTETS },
  errors: ['not_found', 'conflict', 'blob_corrupt', 'blob_not_found', 'store_unavailable'],
  handle: async ({ params, query, caller, signal, reply }, { engine, limits, countOutput }) => {
    const snapshot = await engine.snapshots.get(params.id, caller.tenant)
    const body = await engine.snapshots.export(snapshot.id, caller.tenant, { memory: query.memory, signal })
    return await sendBytes(reply, {
      status: 200,
      headers: {
        'content-type': OCTETS,
        'content-disposition': `attachment; filename="${fileNameOf(snapshot)}"`,
      },
      body,
      stallTimeoutMs: limits.stallTimeoutMs,
      count: countOutput,
    })
  },
})

const importOne = route({
  method: 'POST',
  path: `${path}/import`,
  tag,
  summary: 'Import a snapshot from the body: what `export` gave',
  description:
    'Nothing of it is there until all of it was verified. Its image has to be on this node when it is restored. Its processes are run only with `trustMemory=true`, which needs a key with the scope `admin`.',
  scope: 'execute',
  query: snapshotImportQuerySchema,
  upload: ['*'],
  answer: { status: 201, description: 'The snapshot', schema: snapshotSchema },
  errors: [
    ...(['import_refused', 'forbidden', 'body_too_large', 'request_timeout', 'quota_exceeded'] as const),
    ...(['store_full', 'store_unavailable', 'store_read_only'] as const),
  ],
  handle: async ({ request, query, caller, signal }, { engine, limits, countOutput }) => {
    const { raw } = request
    try {
      if (query.trustMemory && !mayDo(caller, 'admin'))
        throw new BrambleError('forbidden', { detail: '`trustMemory` needs the scope `admin`' })
      const received = receiveBytes(raw, { stallTimeoutMs: limits.uploadStallMs, count: countOutput })
      const snapshot = await engine.snapshots.import(
        boundedBytes(received, limits.maxSnapshotFileBytes),
        query,
        instanceContext(caller, signal),
      )
      return json(201, snapshot)
    } catch (error) {
      await drainBriefly(raw)
      throw error
    }
  },
})

export const snapshotFileRoutes = [exportOne, importOne]
