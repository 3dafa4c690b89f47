import { request } from 'node:http'
import { text } from 'node:stream/consumers'
import type { LiveNode } from './live-node.ts'
import { connectLive, connectStream, type LiveSocket } from './live-socket.ts'
import type { SshUser } from './live-ssh.ts'

/** One of everything that a client may have going on with an instance. */
export interface Activities extends Disposable {
  /** How each was told that it is over: a status and code, a close code, an exit code; `cut` for a broken connection. */
  readonly ends: Promise<Record<string, string>>
  /** The clients vanish: no connection says that it closes. */
  vanish(): void
  readonly session: string
}

interface Begun {
  readonly over: Promise<string>
  vanish(): void
}

interface Sent {
  readonly path: string
  readonly method?: string
  readonly type?: string
  readonly body: string | Uint8Array
  /** How much more is promised and never sent. */
  readonly missingBytes?: number
  readonly accept?: string
}

/** A request whose answer tells how it ended. */
const begin = (node: LiveNode, { path, method = 'POST', type, body, missingBytes = 0, accept }: Sent): Begun => {
  const { hostname, port } = new URL(node.url)
  const sent = request({
    ...{ hostname, port, method, path, agent: false },
    headers: {
      authorization: `Bearer ${node.key}`,
      'content-type': type ?? 'application/json',
      'content-length': Buffer.byteLength(body) + missingBytes,
      ...(accept !== undefined && { accept }),
    },
  })
  const over = new Promise<string>((resolve) => {
    sent.on('error', () => resolve('cut'))
    sent.on('response', (response) => {
      text(response).then(
        (answer) => {
          const codes = [...answer.matchAll(/"code":"(\w+)"/g)].map(([, code]) => code)
          resolve(`${response.statusCode} ${codes.at(-1) ?? answer.slice(-60).trim()}`)
        },
        () => resolve(`${response.statusCode} cut`),
      )
    })
  })
  if (missingBytes > 0) sent.write(body)
  else sent.end(body)
  return { over, vanish: () => void sent.destroy() }
}

const closing = (socket: LiveSocket): Begun => ({
  over: socket.closed.then(({ code }) =>
    `${code} ${socket.messages.findLast(({ type }) => type === 'error')?.code ?? ''}`.trim(),
  ),
  vanish: () => socket.ws.terminate(),
})

/** A tar archive (pax(1)) of one file, or as much of it as there is. */
const tarHeader = (name: string, sizeBytes: number): Buffer => {
  const header = Buffer.alloc(512)
  header.write(name, 0)
  header.write('0000644\0', 100)
  header.write('0000000\0', 108)
  header.write('0000000\0', 116)
  header.write(`${sizeBytes.toString(8).padStart(11, '0')}\0`, 124)
  header.write('00000000000\0', 136)
  header.write('        0', 148)
  header.write('ustar\0' + '00', 257)
  const sum = header.reduce((total, byte) => total + byte, 0)
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  return header
}

/** Begins one of each, and waits until all are under way. On port 9000 a server says back what it hears. */
export const startActivities = async (node: LiveNode, ref: string, user?: SshUser): Promise<Activities> => {
  const base = `/api/v1/instances/${ref}`
  await node.sh(ref, 'mkdir -p /half; echo old > /half/file; echo old > /half/in-tree; truncate -s 200M /half/big')
  const stream = await connectStream(node, ref)
  stream.send({ type: 'exec', id: 'server', command: 'nc -ll -p 9000 -e cat' })
  stream.send({ type: 'exec', id: 'silent', command: 'nc -ll -p 9001 -e sleep 999' })
  stream.send({ type: 'exec', id: 'job', command: ['sleep', '1000'] })
  stream.send({ type: 'watch', path: '/half' })
  await stream.event('state', ({ watches }) => watches.length === 1)
  for (const port of [9000, 9001]) await node.ask('POST', `${base}/ports`, { json: { port } })
  const pty = await connectLive(node, ref, 'pty')
  const session = await pty.until(() => pty.messages.find(({ type }) => type === 'session')?.id as string | undefined)
  const tunnel = await untilListening(() => connectLive(node, ref, 'tunnel/9000'))
  const silent = await untilListening(() => connectLive(node, ref, 'tunnel/9001'))
  silent[Symbol.dispose]()
  tunnel.send(Buffer.from('hello'))
  await tunnel.until(() => tunnel.bytes().includes('hello'))
  const command = JSON.stringify({ command: 'sleep 1001' })
  const begun: Record<string, Begun> = {
    stream: closing(stream),
    pty: closing(pty),
    tunnel: closing(tunnel),
    exec: begin(node, { path: `${base}/exec`, body: command }),
    events: begin(node, { path: `${base}/exec`, body: command, accept: 'text/event-stream' }),
    file: begin(node, { method: 'PUT', path: `${base}/files/half/file`, body: 'new', missingBytes: 1e6 }),
    tree: begin(node, {
      path: `${base}/upload?path=/half`,
      type: 'application/x-tar',
      body: Buffer.concat([tarHeader('in-tree', 1e6), Buffer.from('new')]),
      missingBytes: 1e6,
    }),
    port: begin(node, { path: `/p/${ref}/9001/`, body: 'x' }),
  }
  if (user !== undefined) {
    const child = user.spawn(['-n', `${ref}@127.0.0.1`, 'sleep 1002'])
    begun.ssh = {
      over: new Promise((resolve) => child.once('exit', (code, signal) => resolve(String(code ?? signal)))),
      vanish: () => void child.kill('SIGKILL'),
    }
  }
  const wanted = ['sleep 999', 'sleep 1000', 'sleep 1001', '/half/file', 'untar', ...(user ? ['sleep 1002'] : [])]
  for (let running = ''; !wanted.every((word) => running.includes(word)); ) running = await node.sh(ref, 'ps -o args')
  const vanish = (): void => {
    for (const each of Object.values(begun)) each.vanish()
  }
  return {
    session,
    vanish,
    ends: Promise.all(Object.entries(begun).map(async ([name, { over }]) => [name, await over] as const)).then((all) =>
      Object.fromEntries(all),
    ),
    [Symbol.dispose]: vanish,
  }
}

const untilListening = async (connect: () => Promise<LiveSocket>): Promise<LiveSocket> => {
  for (;;) {
    try {
      return await connect()
    } catch (error) {
      if ((error as { code?: string }).code !== 'port_closed') throw error
    }
  }
}
