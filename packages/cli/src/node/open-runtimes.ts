import { BrambleError } from '@bramble/protocol'
import { docker, oci, type Probe, processes, type Runtime } from '@bramble/runtime'
import type { NodeConfig } from './node-config.ts'

export interface OpenedRuntimes {
  /** Those that work here, best first. */
  readonly runtimes: Runtime[]
  readonly unavailable: { name: string; reason: string }[]
}

type Notice = (text: string) => void
type Open = (config: NodeConfig, onNotice: Notice) => Promise<Probe<Runtime>>

/** Best first: a container of our own starts in a fraction of the time that a Docker Engine takes. */
const ISOLATING: Readonly<Record<'oci' | 'docker', Open>> = {
  oci: ({ dataDirectory }, onNotice) => oci()({ dataDirectory, onNotice }),
  docker: ({ dataDirectory }) => docker()({ dataDirectory }),
}

/**
 * Tries the runtimes that `config` allows. Throws `no_isolation` where none isolates: a node without isolation is only
 * what `noIsolation` asks for, and then nothing else is tried. `onNotice` hears what people should know.
 */
export const openRuntimes = async (config: NodeConfig, onNotice: Notice): Promise<OpenedRuntimes> => {
  if (config.noIsolation) {
    const probe = await processes()({ dataDirectory: config.dataDirectory })
    if (probe.available) return { runtimes: [probe.runtime], unavailable: [] }
    throw new BrambleError('unsupported', { detail: `process: ${probe.reason}; ${probe.hint}` })
  }
  if (config.runtime === 'process')
    throw new BrambleError('no_isolation', { detail: 'the runtime `process` isolates nothing' })
  const names = config.runtime === 'auto' ? (['oci', 'docker'] as const) : [config.runtime]
  const tried = await Promise.all(names.map(async (name) => ({ name, probe: await ISOLATING[name](config, onNotice) })))
  const runtimes = tried.flatMap(({ probe }) => (probe.available ? [probe.runtime] : []))
  const unavailable = tried.flatMap(({ name, probe }) => (probe.available ? [] : [{ name, reason: probe.reason }]))
  if (runtimes.length > 0) return { runtimes, unavailable }
  throw new BrambleError('no_isolation', {
    detail: unavailable.map(({ name, reason }) => `${name}: ${reason}`).join('; '),
  })
}
