import type { Readable } from 'node:stream'
import type Docker from 'dockerode'
import { NODE_LABEL } from './container.ts'

const maxLineBytes = 64 * 1024

/** What the engine says of the containers of one node. */
export interface EngineEvents {
  /** How many processes of a container the kernel killed for want of memory. */
  oomKills(containerId: string): number
  /** Calls back when the container's first process ended; once. */
  onEnd(containerId: string, ended: () => void): void
  forget(containerId: string): void
  close(): void
}

interface Seen {
  oomKills: number
  ended?: () => void
}

/** Listens to the engine's events for the containers of one node. */
export const watchEngine = async (engine: Docker, node: string): Promise<EngineEvents> => {
  const containers = new Map<string, Seen>()
  const filters = JSON.stringify({ type: ['container'], event: ['oom', 'die'], label: [`${NODE_LABEL}=${node}`] })
  const events = (await engine.getEvents({ filters })) as Readable
  const seen = (id: string): Seen => {
    const known = containers.get(id) ?? { oomKills: 0 }
    containers.set(id, known)
    return known
  }
  let rest = ''
  events.on('data', (data: Buffer) => {
    const lines = (rest + data).split('\n')
    rest = (lines.pop() ?? '').slice(-maxLineBytes)
    for (const line of lines) {
      const { id, action } = parse(line)
      if (id !== undefined && action === 'oom') seen(id).oomKills++
      if (id !== undefined && action === 'die') containers.get(id)?.ended?.()
    }
  })
  // Without events the sandbox's own cgroup files and the end of its agent's stream still tell.
  events.on('error', () => undefined)
  return {
    oomKills: (containerId) => containers.get(containerId)?.oomKills ?? 0,
    onEnd: (containerId, ended) => {
      seen(containerId).ended = ended
    },
    forget: (containerId) => void containers.delete(containerId),
    close: () => void events.destroy(),
  }
}

const parse = (line: string): { id?: string | undefined; action?: string | undefined } => {
  try {
    const { Actor, Action } = JSON.parse(line) as { Actor?: { ID?: string }; Action?: string }
    return { id: Actor?.ID, action: Action }
  } catch {
    return {}
  }
}
