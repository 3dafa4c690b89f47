import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { expect, test } from 'vitest'
import { WebSocket } from 'ws'
import type { HttpContext } from './context.ts'
import { handshakes } from './handshakes.ts'
import { createHttpMetrics } from './http-metrics.ts'
import { idempotencyMemory } from './idempotency.ts'
import { createServer } from './server.ts'
import { stopServer } from './stop-server.ts'

const context: HttpContext = {
  authenticate: () => ({ tenant: 'default', keyId: 'none', scopes: ['read'], quota: {} }),
  idempotency: idempotencyMemory({ maxEntries: 1, maxBytes: 1, ttlMs: 1 }),
  metrics: createHttpMetrics({ version: '0' }),
  limits: {
    ...{
      maxBodyBytes: 1024,
      maxHeldBodyBytes: 1024,
      maxHeaderBytes: 8192,
      headersTimeoutMs: 1000,
      bodyTimeoutMs: 1000,
    },
    ...{ requestTimeoutMs: 5000, stallTimeoutMs: 1000, keepAliveMs: 1000, maxConnections: 8, heartbeatMs: 1000 },
  },
  held: { bodyBytes: 0 },
  inFlight: new Set(),
  corsOrigins: [],
  shutdown: { closing: false },
}

test('a server stops although a WebSocket is open that nobody closes', async () => {
  const shake = handshakes({ noServer: true })
  const server = createServer(context, {
    table: [],
    upgrades: [
      (upgrade) => {
        void shake(upgrade)
        return true
      },
    ],
  })
  await server.listen({ host: '127.0.0.1', port: 0 })
  const { port } = server.server.address() as AddressInfo
  const socket = new WebSocket(`ws://127.0.0.1:${port}/anything`)
  await once(socket, 'open')
  const closed = once(socket, 'close')
  await stopServer(server, 10)
  expect((await closed)[0]).toBe(1006)
})
