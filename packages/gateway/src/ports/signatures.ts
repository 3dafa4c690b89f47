import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Exposure } from '@bramble/engine'
import { writeSecret } from '@bramble/http'

/**
 * Signed URLs of private ports: whoever has one may reach that port until it expires, or is not exposed any more. The
 * secret is the node's, in its data directory.
 */
export interface Signatures {
  sign(exposure: Exposure, expiresAtMs: number): Signed
  /** Whether it was signed here for this port, as it is exposed now, and has not expired. */
  verify(exposure: Exposure, signed: Signed): boolean
}

export interface Signed {
  readonly signature: string
  /** Milliseconds since 1970. */
  readonly expires: string
}

const SECRET_BYTES = 32

export const openSignatures = async (dataDirectory: string, now: () => number = Date.now): Promise<Signatures> => {
  const secret = await secretOf(join(dataDirectory, 'port-signing.key'))
  const macOf = ({ instanceId, port, createdAt }: Exposure, expires: string): Buffer =>
    createHmac('sha256', secret).update(`bramble-port\n${instanceId}\n${port}\n${createdAt}\n${expires}`).digest()
  return {
    sign: (exposure, expiresAtMs) => {
      const expires = String(expiresAtMs)
      return { expires, signature: macOf(exposure, expires).toString('base64url') }
    },
    verify: (exposure, { signature, expires }) => {
      if (!/^\d{1,15}$/.test(expires) || Number(expires) <= now()) return false
      const given = Buffer.from(signature, 'base64url')
      const right = macOf(exposure, expires)
      return given.length === right.length && timingSafeEqual(given, right)
    },
  }
}

const secretOf = async (path: string): Promise<Buffer> => {
  const kept = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  if (kept?.length === SECRET_BYTES) return kept
  const secret = randomBytes(SECRET_BYTES)
  await writeSecret(path, secret)
  return secret
}
