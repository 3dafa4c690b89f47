import { createHash } from 'node:crypto'
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { createLayerFiles, type VolumeStore } from '@bramble/runtime'
import { expect, onTestFinished, type TestContext, test } from 'vitest'
import { silentLog } from '../options.ts'
import { openDatabase } from '../store/open-database.ts'
import { VOLUME_MIGRATIONS, type VolumeTables } from '../store/volume-tables.ts'
import { openVolumes } from '../volumes/open-volumes.ts'
import type { Volumes } from '../volumes/volumes.ts'
import { cacheReferences, sharedCaches } from './share-caches.ts'
import { type CacheSync, cacheSync } from './sync-caches.ts'
import { newDirectory, openNodeStore, useObjectStore } from './testing.ts'

const objectStore = useObjectStore()

/** Volumes as folders: what a runtime keeps, without its quotas. */
const folders = (root: string): VolumeStore => {
  const place = (kind: string, name = ''): string => join(root, kind, name)
  return {
    create: async (name) => void (await mkdir(place('volume', name), { recursive: true })),
    nextGeneration: async (name, before) => {
      if (before === undefined) await mkdir(place('generation', name), { recursive: true })
      else await cp(place('generation', before), place('generation', name), { recursive: true })
    },
    remove: (kind, name) => rm(place(kind, name), { recursive: true, force: true }),
    list: (kind) => readdir(place(kind)).catch(() => []),
    usedBytes: async () => 0,
    directory: async (kind, name) => place(kind, name),
  }
}

interface Node {
  readonly volumes: Volumes
  readonly sync: CacheSync
  readonly blobs: Awaited<ReturnType<typeof openNodeStore>>
  /** A sandbox of the tenant ends, that had written these to its cache of npm. */
  ended(tenant: string, files: Record<string, string>): Promise<void>
  /** Files of the tenant's cache that the next sandbox sees. */
  seen(tenant: string): Promise<Record<string, string>>
}

const openNode = async (url: string, node: string): Promise<Node> => {
  const root = await newDirectory()
  const blobs = await openNodeStore(url)
  const db = await openDatabase<VolumeTables>({
    path: join(root, 'volumes.db'),
    owner: 'volumes',
    migrations: VOLUME_MIGRATIONS,
  })
  const store = folders(root)
  const [owners, usersOf, settled] = [new Set<string>(), () => [], async () => undefined]
  const volumes = await openVolumes({ db, store, log: silentLog, owners, usersOf, settled })
  const files = createLayerFiles()
  onTestFinished(async () => {
    await files.close()
    await volumes.close()
  })
  const sharing = { blobs, files, volumes, node, stagingDirectory: join(root, 'staging') }
  return {
    volumes,
    blobs,
    sync: cacheSync(sharing, { log: silentLog, isIdle: () => true }),
    ended: async (tenant, wrote) => {
      for (const [path, content] of Object.entries(wrote)) {
        const file = join(await store.directory('upper', 'box'), 'npm/upper', path)
        await mkdir(dirname(file), { recursive: true })
        await writeFile(file, content)
      }
      await volumes.promote(tenant, 'box')
    },
    seen: async (tenant) => {
      const found: Record<string, string> = {}
      for (const generation of await volumes.generations()) {
        if (generation.tenant !== tenant) continue
        for (const entry of await readdir(generation.directory, { recursive: true, withFileTypes: true })) {
          const path = join(entry.parentPath, entry.name)
          if (entry.isFile()) found[path.slice(generation.directory.length + 1)] = await readFile(path, 'utf8')
        }
      }
      return found
    },
  }
}

const archive = (content: string): Record<string, string> => {
  const digest = createHash('sha512').update(content).digest('hex')
  return { [`content-v2/sha512/${digest.slice(0, 2)}/${digest.slice(2, 4)}/${digest.slice(4)}`]: content }
}
const lots = { leftBytes: 1024 ** 3 }

const skipUnlessRoot = (context: TestContext): void => {
  if (process.getuid?.() !== 0) context.skip('only root reads what sandboxes wrote')
}

test('what a sandbox downloaded on one node, the tenant finds on the others, once', async (context) => {
  skipUnlessRoot(context)
  const url = await objectStore(context)
  const [one, other] = [await openNode(url, 'one'), await openNode(url, 'other')]
  await one.ended('acme', archive('left'))
  await one.ended('rival', archive('secret'))
  await other.ended('acme', archive('right'))
  await Promise.all([...(await one.sync.share({})), ...(await other.sync.share({}))])

  expect(await other.sync.take(lots, {})).toBeGreaterThan(0)
  expect(await other.seen('acme')).toEqual({ ...archive('left'), ...archive('right') })
  expect(await other.seen('rival')).toEqual(archive('secret'))
  expect(await one.sync.take(lots, {})).toBeGreaterThan(0)
  expect(await one.seen('acme')).toEqual({ ...archive('left'), ...archive('right') })
  expect(await one.sync.take(lots, {})).toBe(0)
})

test('what is not what its name says is not taken, and nothing past the budget', async (context) => {
  skipUnlessRoot(context)
  const url = await objectStore(context)
  const [one, other] = [await openNode(url, 'one'), await openNode(url, 'other')]
  await one.ended('acme', archive('good'))
  const [generation] = await one.volumes.generations()
  const [path = ''] = Object.keys(archive('a lie'))
  const lie = join(generation?.directory ?? '', path)
  await mkdir(dirname(lie), { recursive: true })
  await writeFile(lie, 'something else')
  await Promise.all(await one.sync.share({}))
  expect(await other.sync.take({ leftBytes: 1 }, {})).toBe(0)
  await other.sync.take(lots, {})
  expect(await other.seen('acme')).toEqual(archive('good'))
})

test('what it needs of the store is known', async (context) => {
  skipUnlessRoot(context)
  const url = await objectStore(context)
  const [one, other] = [await openNode(url, 'one'), await openNode(url, 'other')]
  await one.ended('acme', archive('good'))
  await Promise.all(await one.sync.share({}))
  let blobs = 0
  for await (const { manifest } of sharedCaches({ blobs: other.blobs, node: 'other' }))
    for await (const hash of cacheReferences(other.blobs, manifest)) {
      expect(await other.blobs.stat(hash)).toBeDefined()
      blobs++
    }
  expect(blobs).toBeGreaterThan(2)
})
