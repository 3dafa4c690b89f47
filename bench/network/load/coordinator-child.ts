/**
 * One coordinator as a process of its own: the writer and its front over a real store. Answers `usage` with what it has used so far;
 * ends when it is disconnected.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fsStore } from '@bramble/blobs'
import { createFrontMetrics, DEFAULT_NETWORK, openCoordinator, openWriter, timedStore } from '@bramble/coordinator'
import { postgresStore, sqliteStore } from '@bramble/coordinator/store'
import { createIdentity, generateSecretKey } from '@bramble/identity'
import { wasmCurve } from '@bramble/identity/node'
import type { CoordinatorChildOptions } from './coordinator.ts'

const { store: where, maxRegistrations }: CoordinatorChildOptions = JSON.parse(process.argv[2] ?? '{}')
const dataDirectory = await mkdtemp(join(tmpdir(), 'bramble-bench-coordinator-'))
const metrics = createFrontMetrics({ version: 'bench' })
const bare = 'path' in where ? await sqliteStore(where) : await postgresStore(where)
const store = timedStore(bare, metrics)
const secret = generateSecretKey()
const identity = createIdentity(secret, wasmCurve())
const networkId = `0x${'be'.repeat(32)}`
const claim = await store.acquire({ name: 'bench', url: 'http://127.0.0.1:1', ttlMs: 3_600_000 })
if (!claim.held) throw new Error(`${claim.name} writes already`)
const blobs = await fsStore({ directory: join(dataDirectory, 'blobs') })
const network = await openWriter({
  ...{ store, identity, epoch: claim.epoch, auditKey: secret },
  // All workers are on this machine, and of one subnet; jobs of tens of minutes are submitted in one.
  config: {
    ...DEFAULT_NETWORK,
    network: networkId,
    version: 'bench',
    distinct: ['owner', 'machine'],
    grantCredits: 1e9,
  },
  onFail: (error) => {
    throw error
  },
})
const coordinator = await openCoordinator({
  ...{ network, store, blobs, identity, networkId, dataDirectory, metrics, port: 0, version: 'bench' },
  limits: { statsCacheMs: 100, ...(maxRegistrations !== undefined && registrations(maxRegistrations)) },
})

function registrations(perSecond: number) {
  return { registrationsPerSecond: perSecond, allRegistrationsPerSecond: perSecond }
}

process.on('message', () => {
  const { user, system } = process.cpuUsage()
  process.send?.({ cpuMs: (user + system) / 1000, rssBytes: process.memoryUsage.rss() })
})
process.once('disconnect', async () => {
  await coordinator.close({ graceMs: 0 })
  await network.close()
  await store.close()
  await rm(dataDirectory, { recursive: true, force: true })
  process.exit()
})
process.send?.({ url: coordinator.url, key: coordinator.adminKey })
