import { BrambleError } from '@bramble/protocol'
import type { Agent } from '../agent/agent.ts'
import { SANDBOX_AGENT_PATH } from '../agent/agent-binary.ts'
import { appletFields } from './applet-fields.ts'

/**
 * What happens in a sandbox besides its files: processes that start and end, ports that are listened on. A program of the
 * agent looks at /proc while somebody asks, every `intervalMs`: what lives shorter may be missed.
 */
export type SandboxChange =
  | {
      readonly type: 'process'
      readonly event: 'start' | 'exit'
      readonly pid: number
      readonly parentPid: number
      readonly command: string
    }
  | {
      readonly type: 'port'
      readonly event: 'open' | 'close'
      readonly port: number
      readonly address: string
      readonly pid?: number
      readonly command?: string
    }

export interface ObserveOptions {
  readonly signal?: AbortSignal | undefined
  /** How often it looks, 10 to 60,000 ms. Default 50. */
  readonly intervalMs?: number | undefined
  /** Where the agent's program is, seen from the sandbox. */
  readonly agentPath?: string | undefined
}

type PortChange = Extract<SandboxChange, { type: 'port' }>
export type SandboxPort = Omit<PortChange, 'type' | 'event'>

const DEFAULT_INTERVAL_MS = 50
const maxFieldBytes = 2048
/** More than the applet tells of. */
const maxPorts = 4096
/** Letters of the applet's records, and how many fields follow the first. */
const RECORDS: Readonly<Record<string, { type: 'process' | 'port'; event: string; more: number }>> = {
  s: { type: 'process', event: 'start', more: 2 },
  x: { type: 'process', event: 'exit', more: 2 },
  l: { type: 'port', event: 'open', more: 3 },
  u: { type: 'port', event: 'close', more: 3 },
}

/**
 * Processes and ports of the sandbox: first all that are there, then what changes, by the applet `observe`
 * (`packages/agent/FRAMES.md`). Ends of processes come at once, starts and ports by looking. The agent's own programs are left
 * out. By the sandbox's word: names and pids are whatever its processes made of them. Rejects with `sandbox_died`,
 * `sandbox_failed`, `agent_protocol`.
 */
export async function* observeSandbox(
  agent: Agent,
  options: ObserveOptions = {},
): AsyncGenerator<SandboxChange, void, undefined> {
  yield* changesOf(agent, [String(options.intervalMs ?? DEFAULT_INTERVAL_MS)], options)
}

/** What listens now. */
export const listPorts = async (
  agent: Agent,
  options: Omit<ObserveOptions, 'intervalMs'> = {},
): Promise<SandboxPort[]> => {
  const ports: SandboxPort[] = []
  for await (const { type, event: _event, ...port } of changesOf(
    agent,
    [String(DEFAULT_INTERVAL_MS), '--once'],
    options,
  ))
    if (type === 'port' && ports.length < maxPorts) ports.push(port as SandboxPort)
  return ports.sort((a, b) => a.port - b.port)
}

async function* changesOf(
  agent: Agent,
  words: readonly string[],
  { signal, agentPath = SANDBOX_AGENT_PATH }: ObserveOptions,
): AsyncGenerator<SandboxChange, void, undefined> {
  const argv = [agentPath, 'observe', ...words]
  let record: string[] = []
  let more = 0
  for await (const field of appletFields(agent, { argv, signal, maxFieldBytes, failed: errorOf })) {
    const text = field.toString('utf8')
    if (more === 0) {
      more = RECORDS[text.slice(0, 1)]?.more ?? 0
      if (more === 0) throw notAnApplets(text)
      record = [text]
      continue
    }
    record.push(text)
    if (--more === 0) yield parse(record)
  }
  if (more > 0) throw notAnApplets('half a record')
}

const parse = ([first = '', ...rest]: readonly string[]): SandboxChange => {
  const kind = RECORDS[first.slice(0, 1)]
  const number = numberOf(first.slice(1))
  if (kind?.type === 'process') {
    const [parent = '', command = ''] = rest
    const event = kind.event as 'start' | 'exit'
    return { type: 'process', event, pid: number, parentPid: numberOf(parent), command }
  }
  const [address = '', pidText = '', command = ''] = rest
  if (number < 1 || number > 65_535 || !/^[0-9a-f:.]{2,45}$/.test(address)) throw notAnApplets(address)
  const pid = numberOf(pidText)
  return {
    type: 'port',
    event: kind?.event as 'open' | 'close',
    port: number,
    address,
    ...(pid > 0 && { pid }),
    ...(command !== '' && { command }),
  }
}

const numberOf = (text: string): number => {
  if (!/^\d{1,10}$/.test(text)) throw notAnApplets(text)
  return Number(text)
}

const notAnApplets = (text: string): BrambleError =>
  new BrambleError('agent_protocol', { detail: `an observer does not say ${JSON.stringify(text.slice(0, 100))}` })

const errorOf = (code: number, message: string): BrambleError =>
  new BrambleError('sandbox_failed', { detail: `the observer ended with ${code}: ${message}` })
