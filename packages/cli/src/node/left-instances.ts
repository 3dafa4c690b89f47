import { countLeft } from '@bramble/engine'
import { pino } from 'pino'
import { readNodeConfig } from './node-config.ts'
import { startNode } from './start-node.ts'

const PROCESS_RUNTIME = 'process'

/** How many instances of a data directory, on which no node runs, go on without one. */
export const countLeftInstances = async (directory: string): Promise<number> =>
  [...(await countLeft(directory)).values()].reduce((sum, count) => sum + count, 0)

/** Stops them: a node that is there for this alone takes them over. Resolves with how many those were. */
export const stopLeftInstances = async (directory: string): Promise<number> => {
  const left = await countLeft(directory)
  if (left.size === 0) return 0
  const noIsolation = left.has(PROCESS_RUNTIME)
  const flags = { dataDir: directory, runtime: 'auto', host: '127.0.0.1', noIsolation }
  const config = { ...readNodeConfig(flags, directory), maxPooled: 0 }
  await using node = await startNode({ config, log: pino({ level: 'silent' }), listen: false })
  return await node.engine.instances.stopAll()
}

/** What to do about them, for a person. */
export const adviceOnLeft = (count: number): string =>
  `${count === 1 ? '1 instance goes' : `${count} instances go`} on without it: \`bramble up\` takes ${count === 1 ? 'it' : 'them'} over, \`bramble down --stop-instances\` stops ${count === 1 ? 'it' : 'them'}`
