// Runs a command beside a registry of npm packages and Python wheels of its own, on this machine, and prints what was asked
// of the registry as the last line: `with-registry.mjs COMMAND`. What it serves lies in /srv.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'

const ORIGIN = 'http://127.0.0.1:4873'
const requests = []

const packument = (name) => {
  const versions = {}
  for (const file of readdirSync('/srv/npm')) {
    const [, found, version] = /^(.+)-(\d+\.\d+\.\d+)\.tgz$/.exec(file)
    if (found !== name) continue
    const integrity = `sha512-${createHash('sha512')
      .update(readFileSync(`/srv/npm/${file}`))
      .digest('base64')}`
    const { dependencies } = JSON.parse(readFileSync(`/srv/npm-manifests/${name}.json`, 'utf8'))
    versions[version] = { name, version, dependencies, dist: { tarball: `${ORIGIN}/tarballs/${file}`, integrity } }
  }
  const [latest] = Object.keys(versions)
  return latest && JSON.stringify({ name, versions, 'dist-tags': { latest } })
}

const page = () =>
  readdirSync('/srv/wheels')
    .map((file) => {
      const digest = createHash('sha256')
        .update(readFileSync(`/srv/wheels/${file}`))
        .digest('hex')
      return `<a href="${ORIGIN}/wheels/${file}#sha256=${digest}">${file}</a>`
    })
    .join('\n')

/** As the public registries answer: pages for a while, archives for ever, both with an ETag. */
const answer = (path) => {
  const archive = /^\/(?:tarballs|wheels|evil)\/([\w.-]+)$/.exec(path)
  if (archive) {
    const folder = path.startsWith('/tarballs') ? 'npm' : path.split('/')[1]
    return [
      'application/octet-stream',
      'public, max-age=31536000, immutable',
      readFileSync(`/srv/${folder}/${archive[1]}`),
    ]
  }
  if (path === '/simple/demo/') return ['text/html', 'public, max-age=600', page()]
  const body = packument(path.slice(1))
  return body && ['application/json', 'public, max-age=300', body]
}

const server = createServer((request, response) => {
  requests.push(request.url)
  const found = answer(request.url)
  if (!found) return response.writeHead(404).end()
  const [type, cacheControl, body] = found
  const etag = `"${createHash('sha256').update(request.url).digest('hex').slice(0, 16)}"`
  const headers = { 'content-type': type, 'cache-control': cacheControl, etag }
  if (request.headers['if-none-match'] === etag) return response.writeHead(304, headers).end()
  response.writeHead(200, { ...headers, 'content-length': Buffer.byteLength(body) }).end(body)
})

server.listen(4873, '127.0.0.1', () => {
  const child = spawn('/bin/sh', ['-ec', process.argv[2]], { stdio: 'inherit' })
  child.on('exit', (code) => {
    process.stdout.write(`\n${JSON.stringify(requests)}\n`)
    process.exit(code ?? 1)
  })
})
