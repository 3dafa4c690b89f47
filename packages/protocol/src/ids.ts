import { z } from 'zod'

/**
 * Ids are `<prefix>_<26 characters>`: 48 bits of milliseconds since 1970 and 80 random bits in Crockford base32, so
 * that ids of one kind sort by the time they were made (the layout of ULID). Those that one process makes within the
 * same millisecond sort in the order in which they were made: the random part grows by a random step (ULID's
 * monotonicity). The prefix tells the kind in logs.
 */
const ALPHABET = '0123456789abcdefghjkmnpqrstvwxyz'

export const ID_PREFIXES = {
  execution: 'exe',
  sandbox: 'box',
  key: 'key',
  request: 'req',
  batch: 'bat',
  node: 'node',
  instance: 'ins',
  command: 'cmd',
  sshKey: 'ssh',
  job: 'job',
  invite: 'inv',
  session: 'ses',
} as const

export type IdKind = keyof typeof ID_PREFIXES

const idOf = <K extends IdKind>(kind: K) =>
  z
    .string()
    .regex(new RegExp(`^${ID_PREFIXES[kind]}_[0-9a-hjkmnp-tv-z]{26}$`), `is not an id of kind ${kind}`)
    .brand<K>()

export const executionIdSchema = idOf('execution')
export const sandboxIdSchema = idOf('sandbox')
export const keyIdSchema = idOf('key')
export const batchIdSchema = idOf('batch')

export const instanceIdSchema = idOf('instance')
export const sshKeyIdSchema = idOf('sshKey')
export const jobIdSchema = idOf('job')

export type ExecutionId = z.infer<typeof executionIdSchema>
export type SandboxId = z.infer<typeof sandboxIdSchema>
export type KeyId = z.infer<typeof keyIdSchema>
export type BatchId = z.infer<typeof batchIdSchema>
export type InstanceId = z.infer<typeof instanceIdSchema>
export type SshKeyId = z.infer<typeof sshKeyIdSchema>
export type JobId = z.infer<typeof jobIdSchema>

export interface IdSources {
  now?: () => number
  random?: (bytes: Uint8Array<ArrayBuffer>) => void
}

const last = { milliseconds: -1, bytes: new Uint8Array(10) }

/** Ten random bytes; within one millisecond, the last ones and a random step of up to 32 bits. */
const nextRandom = (milliseconds: number): Uint8Array<ArrayBuffer> => {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(10))
  // One bit is kept free at the top, so that no number of steps within a millisecond overflows.
  bytes[0] = (bytes[0] ?? 0) & 0x7f
  if (milliseconds === last.milliseconds) {
    let carry = 1
    for (let i = 9; i >= 0; i--) {
      const sum = (last.bytes[i] ?? 0) + (i >= 6 ? (bytes[i] ?? 0) : 0) + carry
      bytes[i] = sum & 0xff
      carry = sum >> 8
    }
  }
  last.milliseconds = milliseconds
  last.bytes = bytes
  return bytes
}

/** Makes a new id. `sources` replaces the clock and the entropy in simulations. */
export const newId = <K extends IdKind>(kind: K, sources: IdSources = {}): string & z.$brand<K> => {
  const milliseconds = (sources.now ?? Date.now)()
  const bytes = sources.random ? new Uint8Array(10) : nextRandom(milliseconds)
  sources.random?.(bytes)
  let time = ''
  for (let rest = milliseconds, i = 0; i < 10; i++, rest = Math.floor(rest / 32)) time = ALPHABET[rest % 32] + time
  let tail = ''
  let bits = 0
  let value = 0
  for (const byte of bytes) {
    value = (value << 8) | byte
    for (bits += 8; bits >= 5; bits -= 5) tail += ALPHABET[(value >>> (bits - 5)) & 31]
    value &= (1 << bits) - 1
  }
  return `${ID_PREFIXES[kind]}_${time}${tail}` as string & z.$brand<K>
}
