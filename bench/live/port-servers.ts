import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const SOURCE = fileURLToPath(new URL('./http-server.c', import.meta.url))
export const PORT = 8000

export interface PortFile {
  readonly path: string
  readonly content: Buffer
}

export interface PortServer {
  readonly name: string
  readonly command: string
  readonly path: string
  /** What it needs in the sandbox. */
  files(): Promise<readonly PortFile[]>
  /** A tar archive for `/`. */
  tree?(): Promise<Buffer>
}

const run = promisify(execFile)

const buildServer = async (): Promise<Buffer> => {
  const folder = mkdtempSync(join(tmpdir(), 'bramble-bench-'))
  try {
    await run('cc', ['-O2', '-static', '-o', join(folder, 'server'), SOURCE])
    return readFileSync(join(folder, 'server'))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** A program of this host, and the libraries that it and its modules are linked with. */
const programFiles = async (program: string, path: string, modules: string[] = []): Promise<readonly PortFile[]> => {
  const { stdout } = await run('ldd', [program, ...modules])
  const libraries = [...new Set([...stdout.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1] ?? ''))]
  return [
    { path, content: readFileSync(program) },
    ...libraries.map((library) => ({ path: library, content: readFileSync(library) })),
  ]
}

const nodeFiles = async (): Promise<readonly PortFile[]> => {
  const script = `require('http').createServer((q, r) => r.end('x'.repeat(64))).listen(${PORT})`
  return [...(await programFiles(process.execPath, '/node')), { path: '/app.js', content: Buffer.from(script) }]
}

const page = async (): Promise<readonly PortFile[]> => [{ path: '/www/page', content: Buffer.alloc(64, 'x') }]

const SERVERS: readonly PortServer[] = [
  { name: "Node's http server", command: '/node /app.js', path: '/', files: nodeFiles },
  {
    name: 'busybox httpd (a process for each connection)',
    command: `busybox httpd -f -p ${PORT} -h /www`,
    path: '/page',
    files: page,
  },
  {
    name: 'a server in C with kept-alive connections',
    command: `/server ${PORT}`,
    path: '/',
    files: async () => [{ path: '/server', content: await buildServer() }],
  },
]

/** The answers of `http.server`, with connections that are kept and one write for each. */
const PYTHON_APP = `from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    wbufsize = -1
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '64')
        self.end_headers()
        self.wfile.write(b'x' * 64)
    def log_message(self, *args):
        pass
ThreadingHTTPServer(('', ${PORT}), Handler).serve_forever()
`

const WHERE_PYTHON_IS =
  "import sys, sysconfig; print(sys.executable, sys.base_prefix, sysconfig.get_path('stdlib'), sep='\\n')"

/** Undefined where the host has no Python 3. */
const pythonServer = async (): Promise<PortServer | undefined> => {
  const found = await run('python3', ['-c', WHERE_PYTHON_IS]).catch(() => undefined)
  const [program, prefix, library] = found?.stdout.trim().split('\n') ?? []
  if (!program || !prefix || !library) return undefined
  return {
    name: "Python's http.server",
    command: `env PYTHONHOME=${prefix} PYTHONDONTWRITEBYTECODE=1 /python /app.py`,
    path: '/',
    files: async () => {
      const modules = readdirSync(join(library, 'lib-dynload')).filter((name) => name.endsWith('.so'))
      const paths = modules
        .filter((name) => !name.startsWith('_tkinter'))
        .map((name) => join(library, 'lib-dynload', name))
      const files = await programFiles(realpathSync(program), '/python', paths)
      return [...files, { path: '/app.py', content: Buffer.from(PYTHON_APP) }]
    },
    tree: async () => {
      const left = ['test', 'site-packages', 'dist-packages', 'idlelib', 'ensurepip', 'config-*', 'lib2to3', 'tkinter']
      const options = left.map((name) => `--exclude=${library.slice(1)}/${name}`)
      const archive = await run('tar', ['-C', '/', ...options, '-cf', '-', library.slice(1)], {
        encoding: 'buffer',
        maxBuffer: 512 << 20,
      })
      return archive.stdout
    },
  }
}

/** The servers that are measured: ordinary ones, and one that does nearly nothing. */
export const portServers = async (): Promise<readonly PortServer[]> => {
  const python = await pythonServer()
  return python ? [...SERVERS, python] : SERVERS
}
