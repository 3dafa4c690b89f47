import type { Exposure, InstanceLease } from '@bramble/engine'
import { json } from '@bramble/http'
import {
  BrambleError,
  exposeRequestSchema,
  exposeResponseSchema,
  instanceParamsSchema,
  portListSchema,
  portParamsSchema,
} from '@bramble/protocol'
import type { GatewayContext } from '../context.ts'
import { portUrls } from '../ports/urls.ts'
import { route } from '../route.ts'

const tag = 'ports'
const path = '/api/v1/instances/:id/ports'

const expose = route({
  method: 'POST',
  path,
  tag,
  summary: 'Expose a port of an instance over HTTP and WebSocket',
  description:
    'Something may begin to listen on it later. A private port takes an API key with the scope `execute`, as a header or ' +
    '`?token=`, or a signed URL; a public one takes everybody. Again, it changes the visibility.',
  scope: 'execute',
  params: instanceParamsSchema,
  body: exposeRequestSchema,
  answer: { status: 200, description: 'Where it is reached', schema: exposeResponseSchema },
  errors: ['not_found', 'quota_exceeded'],
  handle: async ({ params, body, caller, request }, { engine, ports }) => {
    const { port, visibility, signedForMs } = body
    if (signedForMs !== undefined && visibility === 'public')
      throw new BrambleError('invalid_request', {
        detail: '`signedForMs` is for private ports: a public one needs none',
      })
    const exposure = await engine.instances.expose(params.id, caller.tenant, port, visibility)
    const expiresAtMs = signedForMs === undefined ? undefined : Date.now() + signedForMs
    const signed = expiresAtMs === undefined ? undefined : ports.signatures.sign(exposure, expiresAtMs)
    return json(200, {
      port,
      visibility,
      ...portUrls(exposure, { domain: ports.domain, host: request.headers.host, signed }),
      ...(expiresAtMs !== undefined && { expiresAt: new Date(expiresAtMs).toISOString() }),
    })
  },
})

const list = route({
  method: 'GET',
  path,
  tag,
  summary: 'List what listens in an instance, and what is exposed',
  scope: 'read',
  params: instanceParamsSchema,
  answer: { status: 200, description: 'All of them', schema: portListSchema },
  errors: ['not_found', 'sandbox_died'],
  handle: async ({ params, caller, request, signal }, context) => {
    const { instances } = context.engine
    const exposures = await instances.exposures(params.id, caller.tenant)
    const { domain } = context.ports
    const exposed = exposures.map((exposure) => ({
      port: exposure.port,
      visibility: exposure.visibility,
      url: portUrls(exposure, { domain, host: request.headers.host }).url,
    }))
    const items = (await listening(context, params.id, caller.tenant, signal)).map((found) => {
      const known = exposed.find(({ port }) => port === found.port)
      return { ...found, ...(known && { exposed: known }) }
    })
    return json(200, { items, exposed })
  },
})

/** Nothing listens in an instance that does not run. */
const listening = async (
  { engine }: GatewayContext,
  ref: string,
  tenant: string,
  signal: AbortSignal,
): ReturnType<InstanceLease['ports']> => {
  try {
    using lease = await engine.instances.use(ref, tenant, { signal })
    return await lease.ports()
  } catch (error) {
    if (error instanceof BrambleError && error.code === 'instance_stopped') return []
    throw error
  }
}

const unexpose = route({
  method: 'DELETE',
  path: `${path}/:port`,
  tag,
  summary: 'Expose a port no longer, which ends its connections and its signed URLs',
  scope: 'execute',
  params: portParamsSchema,
  answer: { status: 204, description: 'It is closed' },
  errors: ['not_found'],
  handle: async ({ params, caller }, { engine, ports }) => {
    const { id, port } = params
    const before: Exposure[] = await engine.instances.exposures(id, caller.tenant)
    await engine.instances.unexpose(id, caller.tenant, port)
    for (const { instanceId } of before.filter((exposure) => exposure.port === port)) ports.proxy.cut(instanceId, port)
    return { status: 204 }
  },
})

export const portRoutes = [expose, list, unexpose]
