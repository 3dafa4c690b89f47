import { BrambleError } from '@bramble/protocol'
import type { FastifyInstance } from 'fastify'
import { sendProblem } from './problems.ts'
import type { Route } from './route.ts'

/** Answers what no route takes: 405 with `Allow` where the path is known, else 404. */
export const registerNotFound = (
  app: FastifyInstance,
  table: readonly Pick<Route<never>, 'path' | 'method'>[],
): void => {
  const paths = table.map(({ path, method }) => ({ method, segments: path.split('/') }))
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?', 1)[0] ?? ''
    const segments = path.split('/')
    const methods = paths.filter((known) => matches(known.segments, segments)).map(({ method }) => method)
    if (methods.length === 0)
      return sendProblem(request, reply, new BrambleError('not_found', { detail: `there is no route \`${path}\`` }))
    const allow = [...new Set(methods)].join(', ')
    reply.header('allow', allow)
    const detail = `\`${path}\` takes ${allow}, not ${request.method}`
    return sendProblem(request, reply, new BrambleError('method_not_allowed', { detail }))
  })
}

const matches = (pattern: readonly string[], segments: readonly string[]): boolean =>
  (pattern.at(-1) === '*' ? pattern.length <= segments.length : pattern.length === segments.length) &&
  pattern.every((part, index) => {
    if (part === '*') return true
    return part.startsWith(':') ? segments[index] !== '' : part === segments[index]
  })
