import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http'
import { type BrambleError, newId, type Problem } from '@bramble/protocol'
import type { PortRequest } from './plain-request.ts'
import { headText } from './response-text.ts'

/** Answers in the place of an app: a problem document, or a page where the client is a person's browser. */
export const refuse = (request: IncomingMessage, response: ServerResponse, error: BrambleError): void => {
  if (response.headersSent || response.destroyed) {
    response.destroy()
    return
  }
  const { headers, text } = refusal(request, error)
  // The rest of a body that nobody reads must not be taken for the next request.
  if (!request.complete) headers.push('connection', 'close')
  response.writeHead(error.status, headers)
  response.end(request.method === 'HEAD' ? undefined : text)
}

/** The same as text of the connection. */
export const refusalText = (request: PortRequest, error: BrambleError, keepAliveMs: number | undefined): string => {
  const { headers, text } = refusal(request, error)
  const head = headText({ status: error.status, reason: STATUS_CODES[error.status] ?? '', headers, keepAliveMs })
  // Written as Latin-1, like all that passes: these are its bytes.
  return request.method === 'HEAD' ? head : head + Buffer.from(text).toString('latin1')
}

const refusal = (request: PortRequest, error: BrambleError): { headers: string[]; text: string } => {
  const problem = error.toProblem(newId('request'))
  const isPage = wantsPage(request)
  const text = isPage ? page(problem) : JSON.stringify(problem)
  const headers = [
    'content-type',
    isPage ? 'text/html; charset=utf-8' : 'application/problem+json',
    'content-length',
    String(Buffer.byteLength(text)),
    'x-request-id',
    problem.requestId ?? '',
    'x-content-type-options',
    'nosniff',
    'cache-control',
    'no-store',
  ]
  if (isPage) headers.push('content-security-policy', "default-src 'none'; style-src 'unsafe-inline'")
  if (error.code === 'unauthorized') headers.push('www-authenticate', 'Bearer')
  if (error.retryAfterMs !== undefined) headers.push('retry-after', String(Math.ceil(error.retryAfterMs / 1000)))
  return { headers, text }
}

/** A navigation: programs say `*` + `/*`, or what they want. */
export const wantsPage = ({ headers: { accept } }: PortRequest): boolean => accept?.includes('text/html') ?? false

const escaped = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')

const page = ({ title, detail, hint, status, code, requestId }: Problem): string => `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escaped(title)}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:4em auto;padding:0 1em}small{color:#666}</style>
<h1>${escaped(title)}</h1><p>${escaped(detail)}<p>${escaped(hint)}
<p><small>${status} ${code}, ${escaped(requestId ?? '')}</small></html>
`
