/** Text or bytes as part of a URL: everything but RFC 3986's unreserved characters becomes `%XX`. */
export const escapeText = (value: string | number | boolean): string => encodeURIComponent(String(value))

export const escapeBytes = (bytes: Uint8Array): string => {
  let text = ''
  for (const byte of bytes) {
    const character = String.fromCharCode(byte)
    text += /[\w.~-]/.test(character) ? character : `%${byte.toString(16).padStart(2, '0')}`
  }
  return text
}
