import type { Readable } from 'node:stream'
import type Docker from 'dockerode'
import { NODE_LABEL } from './container.ts'

const maxLineBytes = 64 * 1024

/** Counts, by container, what the engine says the kernel killed for want of memory. */
export interface OomWatch {
  count(containerId: string): number
  forget(containerId: string): void
  close(): void
}

/** Listens to the engine's events for the containers of one node. */
export const watchOom = async (engine: Docker, node: string): Promise<OomWatch> => {
  const counts = new Map<string, number>()
  const filters = JSON.stringify({ type: ['container'], event: ['oom'], label: [`${NODE_LABEL}=${node}`] })
  const events = (await engine.getEvents({ filters })) as Readable
  let rest = ''
  events.on('data', (data: Buffer) => {
    const lines = (rest + data).split('\n')
    rest = (lines.pop() ?? '').slice(-maxLineBytes)
    for (const line of lines) {
      const id = containerOf(line)
      if (id !== undefined) counts.set(id, (counts.get(id) ?? 0) + 1)
    }
  })
  // Without events the sandbox's own cgroup files still tell.
  events.on('error', () => undefined)
  return {
    count: (containerId) => counts.get(containerId) ?? 0,
    forget: (containerId) => void counts.delete(containerId),
    close: () => void events.destroy(),
  }
}

const containerOf = (line: string): string | undefined => {
  try {
    const { Actor } = JSON.parse(line) as { Actor?: { ID?: string } }
    return Actor?.ID
  } catch {
    return undefined
  }
}
