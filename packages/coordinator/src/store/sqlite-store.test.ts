import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { describe, expect, test } from 'vitest'
import { aBatch } from '../testing/records.ts'
import { testStore } from '../testing/store-contract.ts'
import { sqliteStore } from './sqlite-store.ts'

testStore('sqlite', {
  open: async () => {
    const directory = mkdtempSync(join(tmpdir(), 'bramble-store-'))
    return {
      open: () => sqliteStore({ path: join(directory, 'network.db') }),
      died: (store) => store.close(),
      close: async () => rmSync(directory, { recursive: true }),
    }
  },
})

const HOLDER = `
const { sqliteStore } = await import(process.argv[1])
const store = await sqliteStore({ path: process.argv[2] })
const lease = await store.acquire({ name: 'child', url: 'http://child.test/', ttlMs: 3_600_000 })
await store.append(lease.epoch, { seq: 1, at: 1, log: ['child'], jobs: [], documents: [], reputation: [], ledger: [] })
process.stdout.write('written')
setInterval(() => {}, 1000)
`

describe('a store in SQLite', () => {
  const withDirectory = async (work: (path: string) => Promise<void>): Promise<void> => {
    const directory = mkdtempSync(join(tmpdir(), 'bramble-store-'))
    try {
      await work(join(directory, 'network.db'))
    } finally {
      rmSync(directory, { recursive: true })
    }
  }

  test('has its lease as long as its process lives, and not a moment longer', () =>
    withDirectory(async (path) => {
      const module = new URL('sqlite-store.ts', import.meta.url).href
      const child = spawn(process.execPath, ['--input-type=module', '-e', HOLDER, module, path])
      await once(child.stdout, 'data')
      await using store = await sqliteStore({ path })
      const claim = { name: 'parent', url: 'http://parent.test/', ttlMs: 1000 }
      expect(await store.acquire(claim)).toMatchObject({ held: false, name: 'child', url: 'http://child.test/' })
      expect(await store.writer()).toMatchObject({ name: 'child' })
      const ended = once(child, 'close')
      child.kill('SIGKILL')
      await ended
      expect(await store.writer()).toBeUndefined()
      expect(await store.acquire(claim)).toEqual({ held: true, epoch: 2 })
      expect((await store.load()).seq).toBe(1)
    }))

  test('refuses the tables of a later version', () =>
    withDirectory(async (path) => {
      await (await sqliteStore({ path })).close()
      const database = new DatabaseSync(path)
      database.exec("update meta set value = 99 where name = 'schema'")
      database.close()
      await expect(sqliteStore({ path })).rejects.toMatchObject({
        code: 'conflict',
        detail: expect.stringContaining('99'),
      })
    }))

  test('is the owner’s alone to read', () =>
    withDirectory(async (path) => {
      await using store = await sqliteStore({ path })
      const lease = await store.acquire({ name: 'one', url: '', ttlMs: 1000 })
      await store.append(lease.held ? lease.epoch : 0, aBatch(1, { log: [1] }))
      for (const file of [path, `${path}-wal`]) expect(statSync(file).mode & 0o077).toBe(0)
    }))
})
