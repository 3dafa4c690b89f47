import { isUtf8 } from 'node:buffer'
import type { TreeEntry } from '@bramble/protocol'

/**
 * A path as one character a byte (`latin1`), as the runtime has it (`BytePath`): equal strings are equal paths, whatever their
 * encoding in a line is, and sorting by code units sorts bytes.
 */
export type PathKey = string

/** The form of a path in a line of a tree. */
export type PathForm = Pick<TreeEntry, 'path' | 'encoding'>

// biome-ignore lint/suspicious/noControlCharactersInRegex: ASCII begins with control characters, and paths may have them
const ASCII = /^[\x00-\x7f]*$/

export const keyOf = (path: string, encoding: 'base64' | undefined): PathKey => {
  if (encoding !== undefined) return Buffer.from(path, encoding).toString('latin1')
  return ASCII.test(path) ? path : Buffer.from(path).toString('latin1')
}

const isText = (key: PathKey): boolean => ASCII.test(key) || isUtf8(Buffer.from(key, 'latin1'))
const encode = (key: PathKey, encoding: 'utf8' | 'base64'): string =>
  encoding === 'utf8' && ASCII.test(key) ? key : Buffer.from(key, 'latin1').toString(encoding)

export const formOf = (key: PathKey): PathForm =>
  isText(key) ? { path: encode(key, 'utf8') } : { path: encode(key, 'base64'), encoding: 'base64' }

/** A path with a target beside it: one encoding is for both. */
export const formWithTarget = (key: PathKey, target: PathKey): PathForm & { target: string } =>
  isText(key) && isText(target)
    ? { path: encode(key, 'utf8'), target: encode(target, 'utf8') }
    : { path: encode(key, 'base64'), target: encode(target, 'base64'), encoding: 'base64' }

/** Empty: the root. */
export const parentOf = (key: PathKey): PathKey => key.slice(0, Math.max(0, key.lastIndexOf('/')))
export const nameOf = (key: PathKey): string => key.slice(key.lastIndexOf('/') + 1)
