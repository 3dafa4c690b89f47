import { BrambleError, LIMITS } from '@bramble/protocol'

/**
 * Names in a sandbox are bytes, and need not be UTF-8: they are percent-decoded from the URL as it came, not from a string
 * that somebody decoded before.
 */
const FILES = /^(\/api\/v1\/instances\/[^/?#]+\/files\/)([^?]*)/

/** The URL by which the router finds the route of a file: it decodes paths as UTF-8, and would refuse others. */
export const withoutFilePath = (url: string): string => url.replace(FILES, '$1-')

/** The path that the URL of a file names, from the root of the sandbox. */
export const filePathOf = (url: string): Buffer => {
  const rest = FILES.exec(url)?.[2] ?? ''
  return bounded('path', percentDecode('path', `/${rest}`))
}

/** The bytes of one parameter of the query, where it is there. */
export const queryPathOf = (url: string, name: string): Buffer | undefined => {
  const start = url.indexOf('?')
  if (start < 0) return undefined
  const given = url
    .slice(start + 1)
    .split('&')
    .filter((pair) => pair.startsWith(`${name}=`))
  const [pair] = given
  if (pair === undefined || given.length > 1) return undefined
  return bounded(name, percentDecode(name, pair.slice(name.length + 1).replaceAll('+', ' ')))
}

const invalid = (field: string, message: string): BrambleError =>
  new BrambleError('invalid_request', { detail: `\`${field}\`: ${message}`, issues: [{ path: field, message }] })

const bounded = (field: string, path: Buffer): Buffer => {
  if (path.length > LIMITS.maxPathBytes.value) throw invalid(field, `is longer than ${LIMITS.maxPathBytes.value} bytes`)
  if (path.length === 0) throw invalid(field, 'is empty')
  if (path.includes(0)) throw invalid(field, 'contains a NUL byte')
  return path
}

/** RFC 3986, section 2.1. Node gives the bytes of a URL one by one, as Latin-1. */
const percentDecode = (field: string, text: string): Buffer => {
  const bytes = Buffer.from(text, 'latin1')
  let length = 0
  for (let index = 0; index < bytes.length; index++, length++) {
    if (bytes[index] !== 0x25) {
      bytes[length] = bytes[index] as number
      continue
    }
    const hex = bytes.toString('latin1', index + 1, index + 3)
    if (!/^[0-9a-f]{2}$/i.test(hex)) throw invalid(field, 'has a % without two digits after it')
    bytes[length] = Number.parseInt(hex, 16)
    index += 2
  }
  return bytes.subarray(0, length)
}
