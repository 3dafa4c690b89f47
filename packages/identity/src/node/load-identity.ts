import { randomBytes } from 'node:crypto'
import { link, mkdir, open, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { BrambleError } from '@bramble/protocol'
import { createIdentity } from '../create-identity.ts'
import { bytesOfHex, toHex } from '../hex.ts'
import type { Identity } from '../identity.ts'
import { generateSecretKey } from '../keys.ts'
import { wasmCurve } from './wasm-curve.ts'

const MAX_FILE_BYTES = 4096

const refuse = (file: string, what: string, cause?: unknown): never => {
  throw new BrambleError('conflict', { detail: `the key in ${file} cannot be used: ${what}`, cause })
}

const read = async (file: string): Promise<Identity | undefined> => {
  let text: string
  try {
    await using handle = await open(file, 'r')
    const { mode, size } = await handle.stat()
    if ((mode & 0o077) !== 0)
      return refuse(
        file,
        `others may read it (mode ${(mode & 0o777).toString(8)}); make a new one, or \`chmod 600\` it`,
      )
    if (size > MAX_FILE_BYTES) return refuse(file, `it has ${size} bytes`)
    text = await handle.readFile('utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw cause
  }
  let identity: Identity
  let named: unknown
  try {
    const { version, node, secretKey } = JSON.parse(text)
    if (version !== 1) throw new TypeError('its version is not 1')
    named = node
    identity = createIdentity(bytesOfHex(String(secretKey), 32), wasmCurve())
  } catch {
    // Neither the text nor what a parser says of it: both hold the key.
    return refuse(file, 'it is not a key file of version 1')
  }
  if (identity.id !== named)
    return refuse(file, `it names ${String(named).slice(0, 64)} and holds the key of ${identity.id}`)
  return identity
}

const syncDirectory = async (directory: string): Promise<void> => {
  await using handle = await open(directory, 'r')
  await handle.sync()
}

/** Whole or not at all, and never over one that is there: whoever comes second reads the first one's. */
const create = async (file: string): Promise<void> => {
  const directory = dirname(file)
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const secretKey = generateSecretKey()
  const { id } = createIdentity(secretKey, wasmCurve())
  const part = `${file}.${randomBytes(8).toString('hex')}`
  try {
    {
      await using handle = await open(part, 'wx', 0o600)
      await handle.writeFile(`${JSON.stringify({ version: 1, node: id, secretKey: toHex(secretKey) })}\n`)
      await handle.sync()
    }
    await link(part, file).catch((cause: NodeJS.ErrnoException) => {
      if (cause.code !== 'EEXIST') throw cause
    })
  } finally {
    await rm(part, { force: true })
  }
  await syncDirectory(directory)
}

/**
 * The identity whose secret key is in that file; made at first, durable and readable by its owner alone. Throws `conflict` for
 * a file that others may read, or that is not one of these: a node never takes a new name by itself.
 */
export const loadIdentity = async (file: string): Promise<Identity> => {
  const before = await read(file)
  if (before !== undefined) return before
  await create(file)
  return (await read(file)) ?? refuse(file, 'it was removed')
}
