import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type NodeProcess, startNodeProcess } from '../../test/node-process.ts'
import { type Row, round } from '../run/measure.ts'
import { sandboxPids } from './host-use.ts'
import { deleteInstance, onMessage, openSocket, startInstance } from './instance.ts'

const CLIENT = fileURLToPath(new URL('./load-client.ts', import.meta.url))
const SERVER = fileURLToPath(new URL('./http-server.c', import.meta.url))
const CONNECTIONS = 16
const PORT = 8000

interface Load {
  readonly requests: number
  readonly failed: number
  readonly perSecond: number
  readonly p50: number
  readonly p99: number
}

const run = promisify(execFile)

const load = async (wrapper: readonly string[], args: readonly (string | number)[]): Promise<Load> => {
  const [program = process.execPath, ...rest] = [...wrapper, process.execPath, CLIENT, ...args.map(String)]
  const seen = JSON.parse((await run(program, rest)).stdout) as Load
  if (seen.failed > 0 || seen.requests === 0) throw new Error(`the load failed: ${JSON.stringify(seen)}`)
  return seen
}

const buildServer = async (): Promise<Buffer> => {
  const folder = mkdtempSync(join(tmpdir(), 'bramble-bench-'))
  try {
    await run('cc', ['-O2', '-static', '-o', join(folder, 'server'), SERVER])
    return readFileSync(join(folder, 'server'))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const put = async (node: NodeProcess, id: string, path: string, content: Buffer, mode: string): Promise<void> => {
  const url = `${node.url}/api/v1/instances/${id}/files${path}?mode=${mode}`
  const response = await fetch(url, {
    method: 'PUT',
    headers: { authorization: `Bearer ${node.key}` },
    body: new Uint8Array(content),
  })
  if (!response.ok) throw new Error(await response.text())
}

interface Server {
  readonly name: string
  readonly command: string
  readonly path: string
  /** Host files that it needs in the sandbox. */
  files(): Promise<readonly { path: string; content: Buffer }[]>
}

/** The program that runs this, and the libraries it is linked with. */
const nodeFiles = async (): Promise<readonly { path: string; content: Buffer }[]> => {
  const { stdout } = await run('ldd', [process.execPath])
  const libraries = [...stdout.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1] ?? '')
  const script = "require('http').createServer((q, r) => r.end('x'.repeat(64))).listen(8000)"
  return [
    { path: '/node', content: readFileSync(process.execPath) },
    { path: '/app.js', content: Buffer.from(script) },
    ...libraries.map((path) => ({ path, content: readFileSync(path) })),
  ]
}
const page = async () => [{ path: '/www/page', content: Buffer.alloc(64, 'x') }]

const SERVERS: readonly Server[] = [
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

/** Waits until the port answers inside. */
const startServer = async (node: NodeProcess, id: string, command: string) => {
  const socket = await openSocket(node, `/api/v1/containers/${id}/stream`)
  const listening = new Promise<void>((resolve, reject) =>
    onMessage(socket, (message) => {
      if (message.type === 'port_event') resolve()
      if (message.type === 'error' || message.type === 'exit') reject(new Error(JSON.stringify(message)))
    }),
  )
  socket.send({ type: 'exec', id: 'server', command, stdin: false })
  await listening
  return socket
}

/**
 * The same server reached directly, by a client in the sandbox's own network, and through its exposed port. Requests/s with
 * 16 connections; latency with one.
 */
export const ports = async (options: { quick: boolean }): Promise<Row[]> => {
  const seconds = options.quick ? 1 : 5
  await using node = await startNodeProcess({ BRAMBLE_MAX_POOLED: '0' })
  const rows: Row[] = []
  for (const { name, command, path, files } of SERVERS) {
    const id = await startInstance(node, { resources: { cpus: 2, pids: 512 } })
    for (const file of await files()) await put(node, id, file.path, file.content, '0755')
    const pid = sandboxPids(node)[0]
    {
      await using server = await startServer(node, id, command)
      void server
      await node.call('POST', `/api/v1/instances/${id}/ports`, { port: PORT })
      const inside = ['nsenter', `--net=/proc/${pid}/ns/net`]
      const direct = (connections: number): Promise<Load> =>
        load(inside, ['127.0.0.1', PORT, path, connections, seconds])
      const { hostname, port } = new URL(node.url)
      const target = [hostname, port, `/p/${id}/${PORT}${path}`]
      const through = (connections: number): Promise<Load> =>
        load([], [...target, connections, seconds, `authorization: Bearer ${node.key}`])
      await direct(1)
      await through(1)
      const [one, oneThrough] = [await direct(1), await through(1)]
      const [many, manyThrough] = [await direct(CONNECTIONS), await through(CONNECTIONS)]
      const ratio = manyThrough.perSecond / many.perSecond
      const added = oneThrough.p50 - one.p50
      rows.push(
        {
          name: `${name}: requests/s through the port, ${CONNECTIONS} connections`,
          figures: {
            through: round(manyThrough.perSecond, 0),
            direct: round(many.perSecond, 0),
            ratio: round(ratio),
            p99: round(manyThrough.p99),
          },
          goal: '>= half of direct',
          reached: ratio >= 0.5,
        },
        {
          name: `${name}: latency through the port, one connection`,
          figures: {
            throughP50: round(oneThrough.p50, 3),
            directP50: round(one.p50, 3),
            addedP50: round(added, 3),
            unit: 'ms',
          },
          goal: 'adds <= 1 ms',
          reached: added <= 1,
        },
      )
    }
    await deleteInstance(node, id)
  }
  return rows
}
