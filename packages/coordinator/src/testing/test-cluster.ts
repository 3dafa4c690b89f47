import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { createIdentity, generateSecretKey } from '@bramble/identity'
import { wasmCurve } from '@bramble/identity/node'
import type { LeadershipEvent } from '../cluster/leadership.ts'
import { type NetworkHere, openNetworkHere } from '../cluster/network-here.ts'
import { DEFAULT_NETWORK } from '../network/config.ts'
import { openWriter } from '../network/open-writer.ts'
import type { Store } from '../store/store.ts'

/** One of several coordinators of a network, in this process, with real sockets between them. */
export interface TestCoordinator {
  readonly name: string
  readonly network: NetworkHere
  readonly store: Store
  readonly url: string
  readonly events: LeadershipEvent[]
  /** From now on, nothing that it writes gets through, until it crashes. */
  holdAppends(): void
  /** How many appends wait. */
  readonly heldAppends: number
  /** As `kill -9` would: its connections break, nothing is given back. */
  crash(): Promise<void>
  /** In good order. */
  close(): Promise<void>
}

export interface TestCluster {
  readonly coordinators: readonly TestCoordinator[]
  add(): Promise<TestCoordinator>
  /** The one that writes, when there is one. */
  writer(): Promise<TestCoordinator>
  /** One that does not. */
  other(): TestCoordinator
  close(): Promise<void>
}

export interface TestClusterOptions {
  readonly openStore: () => Promise<Store>
  readonly ttlMs?: number
  readonly redisUrl?: string
  readonly secretOf?: (name: string) => Uint8Array
}

export const openTestCluster = (options: TestClusterOptions): TestCluster => {
  const { openStore, ttlMs = 1_000, redisUrl } = options
  const secretKey = generateSecretKey()
  const identity = createIdentity(secretKey, wasmCurve())
  const config = { ...DEFAULT_NETWORK, network: `0x${'42'.repeat(32)}`, version: '0.0.0' }
  const secret = new Uint8Array(32).fill(7)
  const coordinators: TestCoordinator[] = []
  const living = new Set<TestCoordinator>()

  const add = async (): Promise<TestCoordinator> => {
    const name = `coordinator-${coordinators.length + 1}`
    const opened = await openStore()
    const store: Store = Object.create(opened)
    const crashed = Promise.withResolvers<never>()
    crashed.promise.catch(() => {})
    let holding = false
    let heldAppends = 0
    store.append = async (epoch, batch) => {
      if (holding) {
        heldAppends++
        await crashed.promise
      }
      return opened.append(epoch, batch)
    }
    const events: LeadershipEvent[] = []
    const sockets = new Set<Socket>()
    const server = createServer((_request, response) => response.writeHead(404).end())
    server.on('connection', (socket) => {
      sockets.add(socket)
      socket.once('close', () => sockets.delete(socket))
    })
    server.on('upgrade', (request, socket, head) => {
      socket.on('error', () => socket.destroy())
      const upgrade = { request, socket, head, requestId: 'req', path: request.url ?? '', query: new URLSearchParams() }
      if (!network.handleLink(upgrade)) socket.destroy()
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
    const network = openNetworkHere({
      ...{ store, name, ttlMs, url, secret: options.secretOf?.(name) ?? secret },
      openWriter: ({ epoch, onFail }) => openWriter({ store, epoch, config, identity, auditKey: secretKey, onFail }),
      ...(redisUrl !== undefined && { redisUrl }),
      log: (event) => events.push(event),
    })
    const hangUp = async (): Promise<void> => {
      for (const socket of sockets) socket.destroy()
      if (!server.listening) return
      server.close()
      await once(server, 'close')
    }
    const coordinator: TestCoordinator = {
      ...{ name, network, store, url, events },
      holdAppends() {
        holding = true
      },
      get heldAppends() {
        return heldAppends
      },
      async crash() {
        living.delete(coordinator)
        await hangUp()
        await opened.close()
        crashed.reject(new Error('it crashed'))
      },
      async close() {
        living.delete(coordinator)
        await network.close()
        await hangUp()
        await opened.close()
      },
    }
    coordinators.push(coordinator)
    living.add(coordinator)
    return coordinator
  }

  const writing = (): TestCoordinator | undefined => [...living].find(({ network }) => network.leads)
  return {
    coordinators,
    add,
    async writer() {
      for (;;) {
        const found = writing()
        if (found) return found
        await new Promise((resolve) => setTimeout(resolve, 10))
      }
    },
    other() {
      const found = [...living].find(({ network }) => !network.leads)
      if (!found) throw new Error('all coordinators write')
      return found
    },
    async close() {
      for (const coordinator of coordinators) await coordinator.close()
    },
  }
}
