/** Fields that frame or route a message, which no trailer may be (RFC 9110, 6.5.1). */
export const NO_TRAILER =
  /^(?:transfer-encoding|content-length|content-encoding|content-type|host|authorization|set-cookie|trailer|connection|x-forwarded-.*)$/i

/** Those of a body, each on a line. `raw`: name, value, … */
export const trailerFields = (raw: readonly string[]): string => {
  let text = ''
  for (let i = 0; i < raw.length; i += 2) if (!NO_TRAILER.test(raw[i] ?? '')) text += `${raw[i]}: ${raw[i + 1]}\r\n`
  return text
}
