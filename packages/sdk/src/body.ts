import { BrambleError } from '@bramble/protocol'

/** Reads a body as text, up to `maxBytes`: `bad_response` past it, without reading on. */
export const readText = async (response: Response, maxBytes: number): Promise<string> => {
  const declared = Number(response.headers.get('content-length') ?? Number.NaN)
  // The client checks a declared length by itself, so only a body without one, or with a large one, needs watching.
  if (declared <= maxBytes && !response.headers.has('content-encoding')) return response.text()
  const reader = response.body?.getReader()
  if (reader === undefined) return ''
  const decoder = new TextDecoder()
  let text = ''
  let bytes = 0
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return text + decoder.decode()
      bytes += value.length
      if (bytes > maxBytes)
        throw new BrambleError('bad_response', { detail: `the answer is longer than ${maxBytes} bytes` })
      text += decoder.decode(value, { stream: true })
    }
  } finally {
    await reader.cancel().catch(() => undefined)
  }
}
