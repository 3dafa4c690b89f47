import { createHash } from 'node:crypto'
import { BrambleError, LIMITS } from '@bramble/protocol'
import type { NameStore } from '../blob-store.ts'
import { checkName, checkNameValue } from '../name-rules.ts'
import type { S3Objects } from './s3-objects.ts'

/**
 * Names as objects below `names/`. A mark ends each key, so that servers that keep objects as files can have `a` and `a/b`; it
 * sorts before every character of a name, so that listings are in the order of names.
 */
const MARK = '!'
const ROOT = 'names/'

/** Before a value: a magic number, and the hash of name and value, so that a value of another name is not taken for this one's. */
const MAGIC = Buffer.from('brn1', 'latin1')
const headBytes = MAGIC.length + 32

const digestOf = (name: string, value: Uint8Array): Buffer =>
  createHash('sha256').update(`${name}\0`).update(value).digest()

const keyOf = (name: string): string => `${ROOT}${name}${MARK}`

export const s3Names = (objects: S3Objects): NameStore => ({
  set: async (name, value, options = {}) => {
    checkName(name)
    checkNameValue(value)
    await objects.put(keyOf(name), Buffer.concat([MAGIC, digestOf(name, value), value]), options)
  },
  get: async (name, options = {}) => {
    checkName(name)
    const object = await objects.get(keyOf(name), headBytes + LIMITS.maxNameValueBytes.value, options)
    if (!object) return undefined
    const { bytes } = object
    const value = bytes.subarray(headBytes)
    const good =
      bytes.subarray(0, MAGIC.length).equals(MAGIC) &&
      bytes.subarray(MAGIC.length, headBytes).equals(digestOf(name, value))
    if (!good)
      throw new BrambleError('blob_corrupt', {
        detail: `the value of the name ${name} in s3 (${objects.connection.location.label})`,
      })
    return Uint8Array.from(value)
  },
  remove: async (name, options = {}) => {
    checkName(name)
    await objects.remove(keyOf(name), options)
  },
  list: async function* (prefix, options = {}) {
    for await (const { key } of objects.list(`${ROOT}${prefix}`, options))
      if (key.endsWith(MARK)) yield key.slice(ROOT.length, -MARK.length)
  },
})
