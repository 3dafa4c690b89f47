import type { Instance, Ports } from '@bramble/sdk'
import { InvalidArgumentError } from 'commander'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { EXIT, ExitError } from '../exit.ts'
import { calledOf, findInstance } from '../instances/find-instance.ts'
import { interrupt } from '../node/interrupt.ts'
import { parsePort } from '../parse-value.ts'
import { reportError } from '../report-error.ts'
import { type Column, printList } from '../terminal.ts'

interface Forward {
  readonly localHost: string
  readonly localPort: number
  readonly port: number
}

interface PortsOptions extends ConnectionOptions {
  readonly local?: Forward[]
  readonly json?: boolean
}

interface Row {
  readonly port: number
  readonly address?: string | undefined
  readonly pid?: number | undefined
  readonly command?: string | undefined
  readonly url?: string | undefined
  readonly visibility?: string | undefined
}

const COLUMNS: Column<Row>[] = [
  { title: 'PORT', text: ({ port }) => String(port), right: true },
  { title: 'ADDRESS', text: ({ address }) => address ?? '-' },
  { title: 'PID', text: ({ pid }) => (pid === undefined ? '' : String(pid)), right: true },
  { title: 'COMMAND', text: ({ command }) => command ?? '' },
  { title: 'EXPOSED', text: ({ visibility }) => visibility ?? '-' },
  { title: 'URL', text: ({ url }) => url ?? '' },
]

/** `3000`, `8080:3000`, `0.0.0.0:8080:3000`. */
const collectForwards = (text: string, before: Forward[] = []): Forward[] => {
  const match = /^(?:(?:(\[[0-9a-f:.]+\]|[^:[\]]+):)?(\d+):)?(\d+)$/i.exec(text)
  if (match === null) throw new InvalidArgumentError('Not [[ADDRESS:]LOCAL:]REMOTE.')
  const [, host = '127.0.0.1', local, remote = ''] = match
  const port = parsePort(remote)
  const localPort = local === '0' ? 0 : parsePort(local ?? remote)
  return [...before, { localHost: host.replace(/^\[|\]$/g, ''), localPort, port }]
}

export default {
  name: 'ports',
  summary: 'List what listens in an instance, or forward ports of this host to it',
  configure(command) {
    command
      .argument('<instance>', 'id, the beginning of one, or name')
      .option(
        '-L, --local <[local:]port>',
        'listen here and forward, until Ctrl-C; may be given many times',
        collectForwards,
      )
      .option('--json', 'JSON, which is also what a pipe gets')
    addConnectionOptions(command)
      .addHelpText(
        'after',
        '\nForwarding needs no network in the sandbox.\n\nExamples:\n  bramble ports box -L 3000\n  bramble ports box -L 8080:3000 -L 0.0.0.0:5432:5432',
      )
      .action(ports)
  },
} satisfies CliCommand

const ports = async (ref: string, options: PortsOptions): Promise<void> => {
  using interrupted = interrupt()
  const { signal } = interrupted
  const instance = await findInstance(await connect(options), ref, signal)
  if (options.local !== undefined) return await forward(instance, options.local, signal)
  const listed = await instance.ports({ signal })
  if (options.json === true || !process.stdout.isTTY) console.log(JSON.stringify(listed, null, 2))
  else printList(rowsOf(listed), COLUMNS, { json: false, empty: 'nothing listens, and nothing is exposed' })
}

const rowsOf = ({ items, exposed }: Ports): Row[] => {
  const listening = new Set(items.map(({ port }) => port))
  return [
    ...items.map(({ exposed: open, ...item }) => ({ ...item, url: open?.url, visibility: open?.visibility })),
    ...exposed.filter(({ port }) => !listening.has(port)),
  ]
}

const forward = async (instance: Instance, forwards: readonly Forward[], signal: AbortSignal): Promise<void> => {
  const { forwardPort } = await import('@bramble/sdk/node')
  await using all = new AsyncDisposableStack()
  for (const { localHost, localPort, port } of forwards) {
    const onError = (error: unknown): void => void reportError(error)
    const open = forwardPort(instance, { port, localPort, localHost, onError })
    const { host, port: here } = all.use(await open.catch((error: unknown) => taken(error, localHost, localPort)))
    console.log(`${host.includes(':') ? `[${host}]` : host}:${here} -> ${calledOf(instance)}:${port}`)
  }
  await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))
}

const taken = (error: unknown, host: string, port: number): never => {
  const { code } = error as NodeJS.ErrnoException
  if (code !== 'EADDRINUSE' && code !== 'EACCES' && code !== 'EADDRNOTAVAIL') throw error
  const reason = {
    EADDRINUSE: 'another program does',
    EACCES: 'only root may',
    EADDRNOTAVAIL: 'this host has no such address',
  }
  throw new ExitError(
    EXIT.failure,
    `cannot listen on ${host} port ${port}: ${reason[code]}`,
    'Choose another with -L <local>:<remote>.',
  )
}
