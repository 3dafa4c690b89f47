import { exposeResponseSchema, portListSchema } from '@bramble/protocol'
import type { CallOptions } from '../call.ts'
import type { Transport } from '../transport.ts'

export interface ExposeOptions extends CallOptions {
  /** `private` (default): with an API key or a signed URL. `public`: for everybody. */
  readonly visibility?: 'private' | 'public' | undefined
  /** Of a private port: the URL in the answer needs no key for so long. */
  readonly signedForMs?: number | undefined
}

export type Exposed = ReturnType<(typeof exposeResponseSchema)['parse']>
export type Ports = ReturnType<(typeof portListSchema)['parse']>

export const expose = (
  transport: Transport,
  instance: string,
  port: number,
  options: ExposeOptions = {},
): Promise<Exposed> => {
  const { visibility, signedForMs, ...call } = options
  const body = { port, visibility, signedForMs }
  const request = { method: 'POST', path: `${instance}/ports`, body, repeatable: true } as const
  return transport.json({ ...request, ...call }, exposeResponseSchema)
}

export const unexpose = (
  transport: Transport,
  instance: string,
  port: number,
  options: CallOptions = {},
): Promise<void> => transport.none({ method: 'DELETE', path: `${instance}/ports/${port}`, ...options })

export const ports = (transport: Transport, instance: string, options: CallOptions = {}): Promise<Ports> =>
  transport.json({ method: 'GET', path: `${instance}/ports`, ...options }, portListSchema)
