import { hash, randomBytes } from 'node:crypto'
import { type Identity, requestDigest } from '@bramble/identity'
import { BrambleError, problemSchema } from '@bramble/protocol'
import type { NetworkClock } from './session.ts'

export interface SignedRequestOptions {
  readonly method: 'GET' | 'POST' | 'PUT'
  /** Below `/api/v1/`, with the query. */
  readonly path: string
  readonly json?: unknown
  /** Bytes whose SHA-256 is known; called again where the request is. */
  readonly body?: {
    readonly sha256: string
    readonly sizeBytes: number
    open(): Uint8Array | AsyncIterable<Uint8Array>
  }
  readonly signal?: AbortSignal | undefined
}

/** Requests under a node's key. They reject with the coordinator's problem, or `connection_failed`. */
export interface SignedRequests {
  send(options: SignedRequestOptions): Promise<Response>
  json(options: SignedRequestOptions): Promise<unknown>
}

const EMPTY_SHA256 = hash('sha256', '')
const TIME_HEADER = 'bramble-time'

export const signedRequests = (url: string, identity: Identity, clock: NetworkClock): SignedRequests => {
  const base = new URL('api/v1/', url.endsWith('/') ? url : `${url}/`)

  const once = async ({ method, path, json, body, signal }: SignedRequestOptions): Promise<Response> => {
    const to = new URL(path, base)
    const text = json === undefined ? undefined : JSON.stringify(json)
    const bodySha256 = body?.sha256 ?? (text === undefined ? EMPTY_SHA256 : hash('sha256', text))
    const timestampMs = clock.now()
    const nonce = randomBytes(16).toString('hex')
    const digest = requestDigest({ method, path: to.pathname + to.search, bodySha256, timestampMs, nonce })
    // The fetch of Node takes what can be iterated over (https://undici.nodejs.org); the types are those of browsers.
    const content = (body?.open() as BodyInit | undefined) ?? text
    return await fetch(to, {
      method,
      headers: {
        'bramble-node': identity.id,
        'bramble-timestamp': String(timestampMs),
        'bramble-nonce': nonce,
        'bramble-signature': identity.sign(digest),
        ...(text !== undefined && { 'content-type': 'application/json' }),
        ...(body && { 'content-type': 'application/octet-stream', 'content-length': String(body.sizeBytes) }),
      },
      ...(content !== undefined && { body: content, duplex: 'half' }),
      ...(signal && { signal }),
    }).catch((cause: unknown) => {
      signal?.throwIfAborted()
      throw new BrambleError('connection_failed', { detail: `${method} ${to.href}: ${reasonOf(cause)}`, cause })
    })
  }

  const send = async (options: SignedRequestOptions): Promise<Response> => {
    const response = await once(options)
    if (response.ok) return response
    const error = await problemOf(response)
    const serverTimeMs = Number(response.headers.get(TIME_HEADER) ?? Number.NaN)
    if (error.code !== 'clock_skew' || !Number.isFinite(serverTimeMs)) throw error
    clock.correct(serverTimeMs)
    const again = await once(options)
    if (!again.ok) throw await problemOf(again)
    return again
  }

  return { send, json: async (options) => await (await send(options)).json() }
}

const reasonOf = (thrown: unknown): string => {
  const cause = thrown instanceof Error && thrown.cause instanceof Error ? thrown.cause : thrown
  return cause instanceof Error ? cause.message || cause.name : String(cause)
}

const problemOf = async (response: Response): Promise<BrambleError> => {
  const text = await response.text().catch(() => '')
  try {
    return BrambleError.fromProblem(problemSchema.parse(JSON.parse(text)))
  } catch {
    // A proxy has a body of its own.
    const code = response.status === 404 ? 'not_found' : 'bad_response'
    return new BrambleError(response.status >= 500 ? 'connection_failed' : code, {
      detail: `${new URL(response.url).host} answered ${response.status}`,
    })
  }
}
