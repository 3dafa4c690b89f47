import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { openPostgresServer } from '@bramble/coordinator/testing'

export interface CoordinatorChildOptions {
  readonly store: { readonly path: string } | { readonly url: string }
  /** A second, in the place of the usual bound: all nodes of a bench have one address. */
  readonly maxRegistrations?: number
}

export interface Usage {
  readonly cpuMs: number
  readonly rssBytes: number
}

export interface CoordinatorChild extends AsyncDisposable {
  readonly url: string
  readonly key: string
  usage(): Promise<Usage>
}

const CHILD = fileURLToPath(new URL('./coordinator-child.ts', import.meta.url))

export const startCoordinator = async (options: CoordinatorChildOptions): Promise<CoordinatorChild> => {
  const child = fork(CHILD, [JSON.stringify(options)])
  const said = await Promise.race([once(child, 'message'), once(child, 'exit')])
  if (typeof said[0] !== 'object' || said[0] === null) throw new Error('the coordinator did not start: see above')
  const { url, key } = said[0]
  return {
    url,
    key,
    usage: async () => {
      const answer = once(child, 'message')
      child.send('usage')
      return (await answer)[0]
    },
    [Symbol.asyncDispose]: async () => {
      const ended = once(child, 'exit')
      if (child.connected) child.disconnect()
      if (child.exitCode === null) await ended
    },
  }
}

export interface StorePlace extends AsyncDisposable {
  readonly called: 'SQLite' | 'PostgreSQL'
  readonly store: CoordinatorChildOptions['store']
}

/** A store of each kind, on disk, every commit flushed. */
export const STORES: readonly (() => Promise<StorePlace>)[] = [
  async () => {
    const directory = await mkdtemp(join(tmpdir(), 'bramble-bench-sqlite-'))
    return {
      called: 'SQLite',
      store: { path: join(directory, 'network.db') },
      [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
    }
  },
  async () => {
    const server = await openPostgresServer({ fsync: true })
    if ('skip' in server) throw new Error(server.skip)
    return {
      called: 'PostgreSQL',
      store: { url: await server.newDatabase() },
      [Symbol.asyncDispose]: () => server.close(),
    }
  },
]
