import { isUtf8 } from 'node:buffer'
import type { BytePath } from '@bramble/runtime'

const MAX_PATH_BYTES = 8191
const MAX_NAME_BYTES = 255

/** A path of a tree's line, and a target beside it: UTF-8, or both in base64 where one of them is no UTF-8. */
export interface TreePath {
  readonly path: string
  readonly encoding?: 'base64' | undefined
  readonly target?: string | undefined
}

const isAscii = (text: string): boolean => {
  for (let at = 0; at < text.length; at++) if (text.charCodeAt(at) > 0x7f) return false
  return true
}

/** In the words of a tree. */
export const toTreePath = (path: BytePath, target?: BytePath): TreePath => {
  if (isAscii(path) && (target === undefined || isAscii(target)))
    return { path, ...(target !== undefined && { target }) }
  const bytes = [path, ...(target === undefined ? [] : [target])].map((text) => Buffer.from(text, 'latin1'))
  const encoding = bytes.every((text) => isUtf8(text)) ? undefined : ('base64' as const)
  const [first = '', second] = bytes.map((text) => text.toString(encoding ?? 'utf8'))
  return { path: first, ...(encoding && { encoding }), ...(second !== undefined && { target: second }) }
}

/** The bytes of a tree's `path` or `target`. */
export const toBytePath = (text: string, encoding: 'base64' | undefined): BytePath => {
  if (encoding === undefined && isAscii(text)) return text
  return Buffer.from(text, encoding ?? 'utf8').toString('latin1')
}

/** Whether it is relative and stays below the root by its letters alone. */
export const isPathBelow = (path: BytePath): boolean => {
  if (path.length > MAX_PATH_BYTES || path.includes('\0')) return false
  for (let at = 0; at <= path.length; ) {
    const slash = path.indexOf('/', at)
    const end = slash < 0 ? path.length : slash
    const length = end - at
    if (length === 0 || length > MAX_NAME_BYTES) return false
    if (path.charCodeAt(at) === 0x2e && (length === 1 || (length === 2 && path.charCodeAt(at + 1) === 0x2e)))
      return false
    at = end + 1
  }
  return true
}
