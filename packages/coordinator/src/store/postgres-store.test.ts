import { Client } from 'pg'
import { afterEach, describe, expect, test } from 'vitest'
import { openBreakingProxy } from '../testing/breaking-proxy.ts'
import { aBatch, aJob, anEntry } from '../testing/records.ts'
import { testStore } from '../testing/store-contract.ts'
import { usePostgres } from '../testing/use-postgres.ts'
import { postgresStore } from './postgres-store.ts'
import type { Store } from './store.ts'

const server = usePostgres()

const query = async (url: string, text: string): Promise<Record<string, unknown>[]> => {
  const client = new Client(url)
  await client.connect()
  try {
    return (await client.query(text)).rows
  } finally {
    await client.end()
  }
}

testStore('postgres', {
  open: async (context) => {
    const url = await server(context).newDatabase()
    return {
      open: () => postgresStore({ url }),
      died: async () => {
        await query(url, 'update writer set until = 0')
      },
      close: async () => {},
    }
  },
})

describe('a store in PostgreSQL', () => {
  const ends: (() => Promise<void>)[] = []
  afterEach(async () => {
    for (const end of ends.splice(0).reverse()) await end()
  })
  const open = async (url: string): Promise<Store> => {
    const store = await postgresStore({ url })
    ends.push(() => store.close())
    return store
  }
  const lead = async (store: Store, ttlMs = 60_000): Promise<number> => {
    const lease = await store.acquire({ name: 'one', url: 'http://one.test/', ttlMs })
    if (!lease.held) throw new Error(`${lease.name} holds the lease`)
    return lease.epoch
  }
  const recordsOf = async (store: Store): Promise<unknown[]> => {
    const records: unknown[] = []
    for await (const { record } of (await store.load()).log) records.push(record)
    return records
  }

  test('makes its tables once, however many begin at the same time', async (context) => {
    const url = await server(context).newDatabase()
    const stores = await Promise.all(Array.from({ length: 6 }, () => open(url)))
    for (const store of stores) expect((await store.load()).seq).toBe(0)
  })

  test('refuses the tables of a later version', async (context) => {
    const url = await server(context).newDatabase()
    await open(url)
    await query(url, "update meta set value = 99 where name = 'schema'")
    await expect(postgresStore({ url })).rejects.toMatchObject({
      code: 'conflict',
      detail: expect.stringContaining('99'),
    })
  })

  test('asks again what was asked when PostgreSQL was killed', async (context) => {
    const postgres = server(context)
    const url = await postgres.newDatabase()
    const store = await open(url)
    const other = new Client(url)
    other.on('error', () => {})
    await other.connect()
    await other.query('begin')
    await other.query('lock table job_counts in access exclusive mode')
    const counts = store.countJobs()
    const waits = "select 1 from pg_stat_activity where wait_event_type = 'Lock'"
    await expect.poll(() => query(url, waits)).toHaveLength(1)
    await postgres.crash()
    await postgres.start()
    expect(await counts).toEqual({})
  })

  test('gives a lease to another when its holder did not renew it in time', async (context) => {
    const url = await server(context).newDatabase()
    const [one, two] = [await open(url), await open(url)]
    const first = await lead(one, 30)
    await expect.poll(async () => (await two.acquire({ name: 'two', url: '', ttlMs: 60_000 })).held).toBe(true)
    expect(await one.renew(first, 60_000)).toBe(false)
  })

  test('leaves a lease that ran out to its holder while nobody else wants it', async (context) => {
    const url = await server(context).newDatabase()
    const one = await open(url)
    const epoch = await lead(one, 1)
    await expect.poll(() => one.writer()).toBeUndefined()
    await one.append(epoch, aBatch(1, { log: [1] }))
    expect(await one.renew(epoch, 60_000)).toBe(true)
    expect(await one.writer()).toMatchObject({ name: 'one' })
  })

  test('tells others when a lease was taken and given up', async (context) => {
    const url = await server(context).newDatabase()
    const [one, two] = [await open(url), await open(url)]
    const seen: (string | undefined)[] = []
    const end = two.watchWriter(async () => seen.push((await two.writer())?.name))
    await expect.poll(() => seen).toEqual([undefined])
    const epoch = await lead(one)
    await expect.poll(() => seen).toEqual([undefined, 'one'])
    await one.release(epoch)
    await expect.poll(() => seen).toEqual([undefined, 'one', undefined])
    await end()
    await end()
  })

  test.for(['before', 'after'] as const)(
    'writes an append once when its connection breaks %s the server has done it',
    async (when, context) => {
      const proxy = await openBreakingProxy(await server(context).newDatabase())
      ends.push(() => proxy.close())
      const store = await open(proxy.url)
      const epoch = await lead(store)
      const job = aJob()
      const grant = (seq: number) => [anEntry(seq, 'issuer', 'tenant:acme', 10)]
      await store.append(epoch, aBatch(1, { log: [1], ledger: grant(1) }))
      proxy.breakNextAppend(when)
      await store.append(epoch, aBatch(2, { log: [2], jobs: [{ state: job }], ledger: grant(2) }))
      // Without a record in the log.
      proxy.breakNextAppend(when)
      await store.append(epoch, aBatch(3, { ledger: grant(3) }))
      await store.append(epoch, aBatch(3, { log: [3] }))
      expect(proxy.broken).toBe(2)
      expect(await recordsOf(store)).toEqual([1, 2, 3])
      expect(await store.countJobs()).toEqual({ pending: 1 })
      expect(await store.balances()).toMatchObject({ byKind: { issuer: -30, tenant: 30 } })
    },
  )

  test.for(['before', 'after'] as const)(
    'tells what became of an append whose connection broke %s the server had done it, while another took the lease',
    async (when, context) => {
      const url = await server(context).newDatabase()
      const proxy = await openBreakingProxy(url)
      ends.push(() => proxy.close())
      const [one, two] = [await open(proxy.url), await open(url)]
      const first = await lead(one)
      await one.append(first, aBatch(1, { log: [1] }))
      proxy.breakNextAppend(when)
      const taken = query(url, 'update writer set until = 0').then(() => lead(two))
      const told = await one.append(first, aBatch(2, { log: ['one'] })).then(
        () => 'written',
        (error: { code: string }) => error.code,
      )
      await taken
      // Which of the two came first is a race. What was told is what is there.
      const records = await recordsOf(two)
      expect([told, records]).toEqual(records.length === 2 ? ['written', [1, 'one']] : ['not_leader', [1]])
    },
  )

  test('goes on after PostgreSQL crashed: what was acknowledged is there, once', async (context) => {
    const postgres = server(context)
    const store = await open(await postgres.newDatabase())
    const epoch = await lead(store)
    let acknowledged = 0
    let going = true
    const writing = (async () => {
      for (let seq = 1; going; seq++) {
        await store.append(epoch, aBatch(seq, { log: [seq], ledger: [anEntry(seq, 'issuer', 'tenant:acme', 1)] }))
        acknowledged = seq
      }
    })()
    for (let crash = 1; crash <= 2; crash++) {
      const before = acknowledged
      await expect.poll(() => acknowledged, { interval: 5 }).toBeGreaterThan(before + 20)
      await postgres.crash()
      const reading = store.load()
      await postgres.start()
      await reading
    }
    const after = acknowledged
    await expect.poll(() => acknowledged).toBeGreaterThan(after + 20)
    going = false
    await writing
    expect(await recordsOf(store)).toEqual(Array.from({ length: acknowledged }, (_, n) => n + 1))
    expect((await store.balances()).byKind).toEqual({ issuer: -acknowledged, tenant: acknowledged })
  })

  test('says that PostgreSQL is away, after the time it was given', async (context) => {
    const postgres = server(context)
    const url = await postgres.newDatabase()
    const store = await postgresStore({ url, outageMs: 1, queryOutageMs: 1 })
    ends.push(() => store.close())
    const epoch = await lead(store)
    await postgres.crash()
    try {
      await expect(store.append(epoch, aBatch(1, { log: [1] }))).rejects.toMatchObject({ code: 'store_unavailable' })
      await expect(store.countJobs()).rejects.toMatchObject({ code: 'store_unavailable' })
      await expect(store.renew(epoch, 1)).rejects.toMatchObject({ code: 'store_unavailable' })
      await expect(postgresStore({ url })).rejects.toMatchObject({ code: 'store_unavailable' })
    } finally {
      await postgres.start()
    }
    await store.append(epoch, aBatch(1, { log: [1] }))
    expect(await recordsOf(store)).toEqual([1])
  })

  test('fails at once where the address is none', async () => {
    const nowhere = 'postgresql://bramble@localhost/none?host=/nowhere'
    await expect(postgresStore({ url: nowhere })).rejects.toMatchObject({ code: 'store_unavailable' })
  })
})
