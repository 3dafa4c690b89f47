import { Client } from 'pg'
import { clientConfig, type PostgresConnection } from './postgres-connection.ts'

/** What is notified when the writer's lease was taken or given up. */
export const CHANNEL = 'bramble_writer'

const RECONNECT_MS = 500

/**
 * Calls `heard` for each notification, and after each time that it may have missed one. The connection is made anew when it
 * breaks, until `close`.
 */
export const watchChannel = (connection: PostgresConnection, heard: () => void): { close(): Promise<void> } => {
  let client: Client | undefined
  let timer: NodeJS.Timeout | undefined
  let closed = false

  const listen = async (): Promise<void> => {
    const opened = new Client(clientConfig(connection))
    client = opened
    opened.on('error', () => {})
    opened.on('notification', () => heard())
    opened.once('end', again)
    try {
      await opened.connect()
      await opened.query(`listen ${CHANNEL}`)
      heard()
    } catch {
      await opened.end().catch(() => {})
    }
  }
  const again = (): void => {
    client = undefined
    if (closed) return
    timer = setTimeout(() => {
      opening = listen()
    }, RECONNECT_MS)
    timer.unref()
  }
  let opening = listen()
  return {
    async close() {
      closed = true
      clearTimeout(timer)
      await opening
      await client?.end().catch(() => {})
    },
  }
}
