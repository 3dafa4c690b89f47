/**
 * Names of a fake sandbox are text; bytes that are no UTF-8 are in it as U+DC80 to U+DCFF, one each (as Python's
 * `surrogateescape`, PEP 383), so that bytes to name and back is the same bytes.
 */
export const nameOf = (bytes: Uint8Array): string => {
  const data = Buffer.from(bytes)
  const text = data.toString()
  if (!text.includes('\ufffd') || Buffer.from(text).equals(data)) return text
  let name = ''
  for (let at = 0; at < data.length; ) {
    const length = [1, 2, 3, 4].find((size) => isCharacter(data.subarray(at, at + size)))
    name += length ? data.toString('utf8', at, at + length) : String.fromCharCode(0xdc00 + (data[at] ?? 0))
    at += length ?? 1
  }
  return name
}

const isCharacter = (bytes: Buffer): boolean => {
  const text = bytes.toString()
  return [...text].length === 1 && Buffer.from(text).equals(bytes)
}

const ESCAPED = /(?<![\ud800-\udbff])([\udc80-\udcff])/

export const bytesOf = (name: string): Buffer =>
  Buffer.concat(
    name
      .split(ESCAPED)
      .map((part, index) => (index % 2 === 1 ? Buffer.from([part.charCodeAt(0) - 0xdc00]) : Buffer.from(part))),
  )
