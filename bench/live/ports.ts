import { execFile } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type NodeProcess, startNodeProcess } from '../../test/node-process.ts'
import { type Row, round } from '../run/measure.ts'
import { processSeconds, sandboxPids, sandboxSeconds } from './host-use.ts'
import { deleteInstance, onMessage, openSocket, startInstance } from './instance.ts'
import { PORT, type PortServer, portServers } from './port-servers.ts'

const CLIENT = fileURLToPath(new URL('./load-client.ts', import.meta.url))
const CONNECTIONS = 16

interface Load {
  readonly requests: number
  readonly failed: number
  readonly perSecond: number
  readonly p50: number
  readonly p99: number
  readonly tookSeconds: number
  readonly cpuSeconds: number
}

const run = promisify(execFile)

const load = async (wrapper: readonly string[], args: readonly (string | number)[]): Promise<Load> => {
  const [program = process.execPath, ...rest] = [...wrapper, process.execPath, CLIENT, ...args.map(String)]
  const seen = JSON.parse((await run(program, rest)).stdout) as Load
  if (seen.failed > 0 || seen.requests === 0) throw new Error(`the load failed: ${JSON.stringify(seen)}`)
  return seen
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

const putFiles = async (node: NodeProcess, id: string, server: PortServer): Promise<void> => {
  for (const file of await server.files()) await put(node, id, file.path, file.content, '0755')
  const tree = await server.tree?.()
  if (!tree) return
  const response = await fetch(`${node.url}/api/v1/instances/${id}/upload?path=/`, {
    method: 'POST',
    headers: { authorization: `Bearer ${node.key}`, 'content-type': 'application/x-tar' },
    body: new Uint8Array(tree),
  })
  if (!response.ok) throw new Error(await response.text())
  await response.arrayBuffer()
}

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

interface Used {
  readonly node: number
  readonly agent: number
  readonly sandbox: number
}

const usedBy = (node: NodeProcess, agentPid: number): Used => ({
  node: processSeconds(node.pid),
  agent: processSeconds(agentPid),
  sandbox: sandboxSeconds(node),
})

/** Of all the processors' time while the load ran, what each part took: the client is on the same host. */
const shares = (before: Used, after: Used, { cpuSeconds, tookSeconds }: Load): Record<string, string> => {
  const percent = (seconds: number): string => `${round((100 * seconds) / (tookSeconds * availableParallelism()), 0)}%`
  const agent = after.agent - before.agent
  return {
    'cpu of node': percent(after.node - before.node),
    agent: percent(agent),
    server: percent(after.sandbox - before.sandbox - agent),
    client: percent(cpuSeconds),
  }
}

/**
 * The same server reached directly, by a client in the sandbox's own network, and through its exposed port. Requests/s with
 * 16 connections; latency with one.
 */
export const ports = async (options: { quick: boolean }): Promise<Row[]> => {
  const seconds = options.quick ? 1 : 5
  await using node = await startNodeProcess({ BRAMBLE_MAX_POOLED: '0' })
  const rows: Row[] = []
  for (const server of await portServers()) {
    const { name, command, path } = server
    const id = await startInstance(node, { resources: { cpus: 2, pids: 512 } })
    await putFiles(node, id, server)
    // The first one is the agent.
    const pid = Math.min(...sandboxPids(node))
    {
      await using started = await startServer(node, id, command)
      void started
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
      const many = await direct(CONNECTIONS)
      const before = usedBy(node, pid)
      const manyThrough = await through(CONNECTIONS)
      const parts = shares(before, usedBy(node, pid), manyThrough)
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
            ...parts,
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
