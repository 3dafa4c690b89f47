import { createReadStream } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { Answer } from './idempotency.ts'

/** The files of swagger-ui-dist that the page needs; nothing else of the package is served. */
const ASSETS: Record<string, string> = {
  'swagger-ui.css': 'text/css; charset=utf-8',
  'swagger-ui-bundle.js': 'text/javascript; charset=utf-8',
  'favicon-32x32.png': 'image/png',
}

const page = (title: string): string => `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>${title}</title>
    <link rel="icon" href="/docs/favicon-32x32.png">
    <link rel="stylesheet" href="/docs/swagger-ui.css">
  </head>
  <body>
    <div id="api"></div>
    <script src="/docs/swagger-ui-bundle.js"></script>
    <script src="/docs/start.js"></script>
  </body>
</html>
`

const START = `SwaggerUIBundle({ url: '/openapi.json', dom_id: '#api', deepLinking: true })\n`

/** The page may load its own files and call its own API; nobody may frame it. */
const SECURITY_HEADERS = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
}

export const docsPage = (reply: FastifyReply, title: string): Answer => {
  reply.headers(SECURITY_HEADERS)
  return { status: 200, text: page(title) }
}

/** Serves the page's files, from disk at each request: at rest they cost no memory. */
export const registerDocsAssets = (app: FastifyInstance): void => {
  const directory = dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'))
  // Whoever opens the server's URL in a browser finds the page.
  app.get('/', (_request, reply) => reply.redirect('/docs'))
  app.get('/docs/start.js', (_request, reply) => reply.headers(SECURITY_HEADERS).type('text/javascript').send(START))
  for (const [name, type] of Object.entries(ASSETS))
    app.get(`/docs/${name}`, (_request, reply) =>
      reply
        .headers({ ...SECURITY_HEADERS, 'cache-control': 'max-age=3600' })
        .type(type)
        .send(createReadStream(join(directory, name))),
    )
}
