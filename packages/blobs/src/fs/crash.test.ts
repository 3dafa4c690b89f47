import { cp, mkdtemp, readdir, rm, utimes } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { BlobHash } from '@bramble/protocol'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { BlobStore } from '../blob-store.ts'
import { bytesOf, hashOf, listOf, noise } from '../testing/bytes.ts'
import { killAtEveryStep } from '../testing/crash-steps.ts'
import { fsStore } from './fs-store.ts'

interface Fact {
  readonly put?: BlobHash
  readonly held?: boolean
  readonly released?: boolean
  readonly name?: string
  readonly value?: string | null
  readonly collected?: boolean
  readonly done?: boolean
}

const CHILD = join(import.meta.dirname, 'crash-child.ts')
let root = ''
/** A store with ten old blobs, of which the first four are roots. */
let template = ''
const old = Array.from({ length: 10 }, (_, i) => noise(5000, i))
const roots = old.slice(0, 4).map((bytes) => hashOf(bytes))

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bramble-crash-'))
  template = join(root, 'template')
  const store = await fsStore({ directory: template })
  for (const bytes of old) {
    const { hash } = await store.put(bytes)
    await utimes(join(template, 'blobs', hash.slice(0, 2), hash), 1000, 1000)
  }
  await store.close()
})
afterAll(() => rm(root, { recursive: true, force: true }))

/** What was told is so, and whatever else is there is whole. */
const check = async (store: BlobStore, facts: readonly Fact[], directory: string): Promise<void> => {
  expect(await readdir(join(directory, 'tmp'))).toEqual([])
  expect(await readdir(join(directory, 'quarantine'))).toEqual([])
  const listed = new Set((await listOf(store.list())).map(({ hash }) => hash))
  for (const hash of listed) expect(hashOf(await bytesOf(await store.get(hash)))).toBe(hash)
  for (const { put } of facts) if (put) expect(listed).toContain(put)
  const held = await listOf(store.leases.held())
  if (facts.some(({ released }) => released)) expect(held).toEqual([])
  else if (!facts.some(({ done }) => done))
    for (const { put, held: toldHeld } of facts) if (put && toldHeld) expect(held).toContain(put)
}

const hashesOf = (blobs: readonly Uint8Array[]): string => blobs.map((bytes) => hashOf(bytes)).join(',')

const enumerate = (
  scenario: string,
  inspect: (store: BlobStore, facts: readonly Fact[]) => Promise<void>,
): Promise<number> =>
  killAtEveryStep<Fact>(CHILD, async (step) => {
    const directory = join(root, `${scenario}-${step}`)
    await cp(template, directory, { recursive: true, preserveTimestamps: true })
    return {
      words: [directory, scenario],
      env: { ROOTS: roots.join(','), EVICTABLE: hashesOf(old.slice(4)) },
      inspect: async (facts) => {
        await using store = await fsStore({ directory })
        await check(store, facts, directory)
        await inspect(store, facts)
        await rm(directory, { recursive: true })
      },
    }
  })

const isThere = async (store: BlobStore, hash: BlobHash): Promise<boolean> => (await store.stat(hash)) !== undefined

/** As many processes are started as there are steps. */
const timeout = 300_000

describe('killed at every step', { timeout }, () => {
  test('of puts', async () => {
    const steps = await enumerate('put', async (store) => {
      // It goes on where it was.
      const { hash } = await store.put(noise(2000, 1))
      expect(await isThere(store, hash)).toBe(true)
    })
    expect(steps).toBeGreaterThan(20)
  })

  test('of setting names', async () => {
    const order: (string | undefined)[] = [undefined, 'first', 'second', undefined, 'third']
    const steps = await enumerate('names', async ({ names }, facts) => {
      const told = facts.filter(({ name }) => name === 'tenant/results/a').length
      const value = await names.get('tenant/results/a')
      const now = value && Buffer.from(value).toString()
      // The last that was told, or the one that was under way.
      expect(order.slice(told, told + 2)).toContain(now)
      const other = await names.get('tenant/results/b')
      if (facts.some(({ value: toldValue }) => toldValue === 'kept')) expect(String(other)).not.toBe('undefined')
      const listed = await listOf(names.list(''))
      expect(listed.includes('tenant/results/a')).toBe(now !== undefined)
    })
    expect(steps).toBeGreaterThan(15)
  })

  test('of a collection', async () => {
    const steps = await enumerate('collect', async (store, facts) => {
      for (const hash of roots) expect(await isThere(store, hash)).toBe(true)
      const left = await Promise.all(old.map((bytes) => isThere(store, hashOf(bytes))))
      // The one that was needed again stays; the other five go.
      if (facts.some(({ collected }) => collected)) expect(left.filter(Boolean)).toHaveLength(5)
    })
    expect(steps).toBeGreaterThan(8)
  })

  test('of making room', async () => {
    const steps = await enumerate('evict', async (store, facts) => {
      for (const hash of roots) expect(await isThere(store, hash)).toBe(true)
      const stored = (await listOf(store.list())).reduce((sum, { storedBytes }) => sum + storedBytes, 0)
      expect(stored).toBeLessThanOrEqual(60_000)
      expect(facts.filter(({ put }) => put).length).toBeLessThanOrEqual(6)
    })
    expect(steps).toBeGreaterThan(10)
  })
})
