import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import type { Migration } from './migrate.ts'
import { openDatabase } from './open-database.ts'

interface Tables {
  things: { id: string; n: number; flag: number; bytes: Uint8Array | null }
}

const migrations: Migration[] = [
  {
    name: '001',
    up: async (db) => {
      await db.schema
        .createTable('things')
        .addColumn('id', 'text', (column) => column.primaryKey())
        .addColumn('n', 'integer')
        .addColumn('flag', 'integer')
        .addColumn('bytes', 'blob')
        .execute()
    },
  },
]

let path = ''
beforeEach(async () => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-store-'))
  path = join(directory, 'deep', 'test.db')
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
})

describe('a database', () => {
  test('keeps what was committed, and applies each migration once', async () => {
    const first = await openDatabase<Tables>({ path, owner: 'test', migrations })
    await first
      .insertInto('things')
      .values({ id: 'a', n: 1, flag: 1, bytes: Buffer.from([0, 255]) })
      .execute()
    await first.destroy()
    const second = await openDatabase<Tables>({ path, owner: 'test', migrations })
    const rows = await second.selectFrom('things').selectAll().execute()
    expect(rows).toMatchObject([{ id: 'a', n: 1, flag: 1 }])
    expect(Buffer.from(rows[0]?.bytes ?? [])).toEqual(Buffer.from([0, 255]))
    const { numDeletedRows } = await second.deleteFrom('things').executeTakeFirstOrThrow()
    expect(numDeletedRows).toBe(1n)
    await second.destroy()
    await second.destroy()
  })

  test('is readable by its owner only, what lies beside it too, whoever made the directory', async () => {
    await using db = await openDatabase<Tables>({ path, owner: 'test', migrations })
    await db.insertInto('things').values({ id: 'a', n: 1, flag: 1, bytes: null }).execute()
    const names = await readdir(dirname(path))
    expect(names.length).toBeGreaterThan(1)
    for (const name of names) expect((await stat(join(dirname(path), name))).mode & 0o077).toBe(0)
  })

  test('is shared by owners, each with migrations of its own', async () => {
    const other: Migration[] = [
      { name: '001', up: async (db) => void (await db.schema.createTable('others').addColumn('id', 'text').execute()) },
    ]
    await using a = await openDatabase<Tables>({ path, owner: 'a', migrations })
    await using b = await openDatabase<{ others: { id: string } }>({ path, owner: 'b', migrations: other })
    await b.insertInto('others').values({ id: 'x' }).execute()
    expect(await a.selectFrom('things').selectAll().execute()).toEqual([])
  })

  test('a migration that fails leaves nothing of itself', async () => {
    const broken: Migration = {
      name: '002',
      up: async (db) => {
        await db.schema.createTable('half').addColumn('id', 'text').execute()
        throw new Error('broken')
      },
    }
    await expect(openDatabase({ path, owner: 'test', migrations: [...migrations, broken] })).rejects.toThrow('broken')
    await using db = await openDatabase<Tables & { half: { id: string } }>({ path, owner: 'test', migrations })
    await expect(db.selectFrom('half').selectAll().execute()).rejects.toThrow(/no such table/)
  })

  test('a transaction that throws changes nothing, and others wait for it', async () => {
    await using db = await openDatabase<Tables>({ path, owner: 'test', migrations })
    const insert = (id: string) => ({ id, n: 0, flag: 0, bytes: null })
    const failing = db.transaction().execute(async (transaction) => {
      await transaction.insertInto('things').values(insert('lost')).execute()
      await new Promise(setImmediate)
      throw new Error('undo')
    })
    const beside = db.insertInto('things').values(insert('kept')).execute()
    await expect(failing).rejects.toThrow('undo')
    await beside
    expect(await db.selectFrom('things').select('id').execute()).toEqual([{ id: 'kept' }])
  })

  test('held exclusively is refused to others', async () => {
    const held = await openDatabase<Tables>({ path, owner: 'test', migrations, exclusive: true })
    await expect(openDatabase({ path, owner: 'test', migrations, exclusive: true })).rejects.toMatchObject({
      code: 'conflict',
    })
    await held.destroy()
    await using _ = await openDatabase<Tables>({ path, owner: 'test', migrations, exclusive: true })
  })

  test('that is no database is an error', async () => {
    await using db = await openDatabase<Tables>({ path, owner: 'test', migrations })
    await db.destroy()
    await writeFile(path, 'not a database, '.repeat(100))
    await expect(openDatabase({ path, owner: 'test', migrations })).rejects.toThrow(/not a database/)
  })
})
