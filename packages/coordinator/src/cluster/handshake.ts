import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { BrambleError } from '@bramble/protocol'
import { z } from 'zod'

/**
 * Both ends of a link know the cluster's secret and prove it, by a nonce of the other; the key of the link's frames follows from
 * the secret and both nonces, so that nothing that was recorded can be played again.
 */
export const LINK_PATH = '/internal/link'
const VERSION = 1

const bytes = z.string().regex(/^[0-9a-f]{64}$/)
const challengeSchema = z.strictObject({ version: z.literal(VERSION), nonce: bytes })
const helloSchema = z.strictObject({
  version: z.literal(VERSION),
  name: z.string().max(256),
  nonce: bytes,
  code: bytes,
})
const welcomeSchema = z.strictObject({ code: bytes })

const hmac = (secret: Uint8Array, purpose: string, parts: readonly string[]): Buffer =>
  createHmac('sha256', secret)
    .update(JSON.stringify([`bramble/link/${purpose}/${VERSION}`, ...parts]))
    .digest()
const nonce = (): string => randomBytes(32).toString('hex')

const read = <T>(schema: z.ZodType<T>, text: string): T => {
  try {
    return schema.parse(JSON.parse(text))
  } catch (cause) {
    throw new BrambleError('bad_response', { detail: 'what came is no handshake of a coordinator', cause })
  }
}
const check = (code: string, expected: Buffer): void => {
  if (!timingSafeEqual(Buffer.from(code, 'hex'), expected))
    throw new BrambleError('unauthorized', { detail: 'the other coordinator has not the secret of this cluster' })
}

export interface Challenged {
  readonly text: string
  /** Of the hello that answers it: who it is, what to say, and the key. Throws for one without the secret. */
  welcome(hello: string): { readonly name: string; readonly text: string; readonly key: Uint8Array }
}

/** The writer's side. */
export const challenge = (secret: Uint8Array): Challenged => {
  const ours = nonce()
  return {
    text: JSON.stringify({ version: VERSION, nonce: ours }),
    welcome(hello) {
      const { name, nonce: theirs, code } = read(helloSchema, hello)
      check(code, hmac(secret, 'hello', [ours, theirs, name]))
      return {
        name,
        text: JSON.stringify({ code: hmac(secret, 'welcome', [ours, theirs]).toString('hex') }),
        key: hmac(secret, 'key', [ours, theirs]),
      }
    },
  }
}

export interface Answer {
  readonly text: string
  /** The key, when the other has proved that it knows the secret. */
  accept(welcome: string): Uint8Array
}

/** The side of whoever links to it. */
export const answerChallenge = (secret: Uint8Array, name: string, text: string): Answer => {
  const { nonce: theirs } = read(challengeSchema, text)
  const ours = nonce()
  const code = hmac(secret, 'hello', [theirs, ours, name]).toString('hex')
  return {
    text: JSON.stringify({ version: VERSION, name, nonce: ours, code }),
    accept(welcome) {
      check(read(welcomeSchema, welcome).code, hmac(secret, 'welcome', [theirs, ours]))
      return hmac(secret, 'key', [theirs, ours])
    },
  }
}
