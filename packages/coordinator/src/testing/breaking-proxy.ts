import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createConnection, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface BreakingProxy {
  /** Of the same database, by way of the proxy. */
  readonly url: string
  /**
   * Breaks the connection of the next append: `before` it reaches the server, or `after` the server has answered it, so that it is
   * written and nobody was told.
   */
  breakNextAppend(when: 'before' | 'after'): void
  readonly broken: number
  close(): Promise<void>
}

/** The name of the prepared statement, as it stands in PostgreSQL's Bind message. */
const APPEND = Buffer.from('\0append\0')
const SOCKET = '.s.PGSQL.5432'

/** Between a store and its PostgreSQL. */
export const openBreakingProxy = async (databaseUrl: string): Promise<BreakingProxy> => {
  const directory = mkdtempSync(join(tmpdir(), 'bramble-proxy-'))
  const upstream = join(new URL(databaseUrl).searchParams.get('host') ?? '', SOCKET)
  const sockets = new Set<Socket>()
  let next: 'before' | 'after' | undefined
  let broken = 0
  const server = createServer((client) => {
    const target = createConnection(upstream)
    let doomed = false
    const end = (): void => {
      client.destroy()
      target.destroy()
    }
    for (const socket of [client, target]) {
      sockets.add(socket)
      socket.on('error', end)
      socket.on('close', () => {
        sockets.delete(socket)
        end()
      })
    }
    client.on('data', (data) => {
      if (next === undefined || !data.includes(APPEND)) return void target.write(data)
      broken++
      const when = next
      next = undefined
      if (when === 'before') return end()
      doomed = true
      target.write(data)
    })
    target.on('data', (data) => (doomed ? end() : void client.write(data)))
  })
  server.listen(join(directory, SOCKET))
  await once(server, 'listening')
  const url = new URL(databaseUrl)
  url.searchParams.set('host', directory)
  return {
    url: url.href,
    breakNextAppend: (when) => {
      next = when
    },
    get broken() {
      return broken
    },
    async close() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
      rmSync(directory, { recursive: true })
    },
  }
}
