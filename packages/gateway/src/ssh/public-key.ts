import { createHash } from 'node:crypto'
import { BrambleError } from '@bramble/protocol'
import ssh2 from 'ssh2'

/** A public key as SSH names it. */
export interface PublicKey {
  readonly type: string
  /** The key itself, in base64, as in an authorized_keys file. */
  readonly blob: string
  /** `SHA256:…`, as ssh-keygen(1) prints it. */
  readonly fingerprint: string
}

const TYPES = ['ssh-ed25519', 'ecdsa-sha2-nistp256', 'ecdsa-sha2-nistp384', 'ecdsa-sha2-nistp521', 'ssh-rsa']
const MIN_RSA_BITS = 2048
const LINE = /^([a-z0-9@.-]{1,64})[ \t]+([A-Za-z0-9+/]{16,16000}={0,2})(?:[ \t].*)?$/

/** Reads one line of an authorized_keys file. Throws `invalid_request`. */
export const parsePublicKey = (line: string): PublicKey => {
  const [, type = '', text = ''] = LINE.exec(line.trim()) ?? []
  if (type === '')
    throw invalid(
      /PRIVATE KEY/.test(line)
        ? 'that is a private key: send the file that ends in `.pub`'
        : 'it is not `<type> <base64>`',
    )
  if (!TYPES.includes(type)) throw invalid(`keys of type \`${type}\` are not taken; of ${TYPES.join(', ')} they are`)
  const bytes = Buffer.from(text, 'base64')
  const key = ssh2.utils.parseKey(`${type} ${text}`)
  if (key instanceof Error || key.type !== type) throw invalid('its base64 is not a key of that type')
  if (type === 'ssh-rsa' && rsaBits(bytes) < MIN_RSA_BITS) throw invalid(`it has fewer than ${MIN_RSA_BITS} bits`)
  return { type, blob: bytes.toString('base64'), fingerprint: fingerprintOf(bytes) }
}

const fingerprintOf = (blob: Buffer): string =>
  `SHA256:${createHash('sha256').update(blob).digest('base64').replace(/=+$/, '')}`

/** The size of the modulus: the third of the strings in the key (RFC 4253, 6.6). */
const rsaBits = (blob: Buffer): number => {
  let at = 0
  for (let i = 0; i < 2; i++) at += 4 + blob.readUInt32BE(at)
  const length = blob.readUInt32BE(at)
  return (blob[at + 4] === 0 ? length - 1 : length) * 8
}

const invalid = (why: string): BrambleError =>
  new BrambleError('invalid_request', {
    detail: `\`publicKey\`: ${why}`,
    issues: [{ path: 'publicKey', message: why }],
  })
