import { execFile } from 'node:child_process'
import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { BlobHash } from '@bramble/protocol'
import { describe, expect, onTestFinished, type TestContext, test } from 'vitest'
import { bytesOf, listOf, noise, text } from '../testing/bytes.ts'
import { skip } from '../testing/subject.ts'
import { fsStore } from './fs-store.ts'

const run = promisify(execFile)

const makeDirectory = async (): Promise<string> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-fs-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  return directory
}

/** A file system of its own, of so many KiB, that is gone after the test. */
const mountTmpfs = async (context: TestContext, sizeKiB: number): Promise<string> => {
  if (process.getuid?.() !== 0) return skip(context, 'mounting takes root')
  const directory = await makeDirectory()
  try {
    await run('mount', ['-t', 'tmpfs', '-o', `size=${sizeKiB}k`, 'bramble-test', directory])
  } catch (cause) {
    return skip(context, `a tmpfs cannot be mounted: ${cause}`)
  }
  onTestFinished(async () => {
    await run('umount', ['-l', directory])
  })
  return directory
}

const fileOf = (directory: string, hash: BlobHash): string => join(directory, 'blobs', hash.slice(0, 2), hash)
const tempFiles = async (directory: string): Promise<string[]> =>
  (await readdir(join(directory, 'tmp'), { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map(({ name }) => name)

describe('a disk', () => {
  test('that is full: nothing is lost or half written, and it goes on when there is room', async (context) => {
    const directory = await mountTmpfs(context, 2048)
    await using store = await fsStore({ directory })
    const lease = await store.leases.acquire()
    const kept = await store.put(noise(500_000), { lease })
    await store.names.set('kept', Buffer.from('before'))
    const full = { code: 'store_full' }
    await expect(store.put([noise(1_500_000), noise(1_500_000, 1)], { lease })).rejects.toMatchObject(full)
    expect(await tempFiles(directory)).toEqual([])
    // Whatever is left now goes to small ones, until there is nothing.
    const put: BlobHash[] = []
    const fill = async (): Promise<void> => {
      for (let i = 0; ; i++) put.push((await store.put(noise(100_000, 100 + i), { lease })).hash)
    }
    await expect(fill()).rejects.toMatchObject(full)
    await writeFile(join(directory, 'filler'), Buffer.alloc(4_000_000)).catch(() => undefined)
    await expect(store.names.set('kept', noise(100_000))).rejects.toMatchObject(full)
    await expect(store.put(noise(5000), { lease })).rejects.toMatchObject(full)
    expect(await tempFiles(directory)).toEqual([])
    expect(Buffer.from((await store.names.get('kept')) ?? []).toString()).toBe('before')
    expect((await listOf(store.list())).map(({ hash }) => hash).sort()).toEqual([kept.hash, ...put].sort())
    for (const hash of put) expect(await bytesOf(await store.get(hash))).toHaveLength(100_000)
    await rm(join(directory, 'filler'), { force: true })
    for (const hash of put.slice(1)) await store.remove(hash)
    const after = await store.put(noise(5000), { lease })
    await store.close()
    // What a full disk left of the lease's file does not hide what came after.
    await using later = await fsStore({ directory })
    expect(await listOf(later.leases.held())).toEqual(expect.arrayContaining([kept.hash, after.hash]))
  })

  test('that is read-only: everything is read, and nothing is written', async (context) => {
    const directory = await mountTmpfs(context, 4096)
    const store = await fsStore({ directory })
    const { hash } = await store.put(text(200_000))
    await store.names.set('name', Buffer.from('value'))
    const remount = (): Promise<unknown> => run('mount', ['-o', 'remount,ro', directory])
    await store.close()
    await remount()
    const readOnly = { code: 'store_read_only' }
    await using opened = await fsStore({ directory })
    expect(await bytesOf(await opened.get(hash))).toHaveLength(200_000)
    expect(await opened.names.get('name')).toHaveLength(5)
    expect(await listOf(opened.list())).toHaveLength(1)
    await expect(opened.put(text(10))).rejects.toMatchObject(readOnly)
    await expect(opened.put([text(10)])).rejects.toMatchObject(readOnly)
    await expect(opened.names.set('name', Buffer.from('x'))).rejects.toMatchObject(readOnly)
    await expect(opened.names.remove('name')).rejects.toMatchObject(readOnly)
    await expect(opened.remove(hash)).rejects.toMatchObject(readOnly)
    // It is there: there is nothing to write.
    expect(await opened.put(text(200_000))).toMatchObject({ hash })
  })

  test('that cannot be used at all', async () => {
    const directory = await makeDirectory()
    await writeFile(join(directory, 'file'), '')
    await expect(fsStore({ directory: join(directory, 'file') })).rejects.toMatchObject({ code: 'store_unavailable' })
  })
})

describe('damage', () => {
  const changes: Record<string, (path: string) => Promise<void>> = {
    'cut off': (path) => truncate(path, 1000),
    'cut off within its footer': async (path) => truncate(path, (await stat(path)).size - 7),
    'without a byte': (path) => truncate(path, 0),
    'with more bytes': (path) => appendFile(path, 'more'),
    'of zeros, as after a lost flush': async (path) => writeFile(path, Buffer.alloc((await stat(path)).size)),
  }
  for (const [how, change] of Object.entries(changes))
    test(`a file ${how} is named, set aside, and made anew by the next put`, async () => {
      const directory = await makeDirectory()
      await using store = await fsStore({ directory })
      const { hash } = await store.put(text(200_000))
      await change(fileOf(directory, hash))
      const read = async (): Promise<Buffer> => bytesOf(await store.get(hash))
      await expect(read()).rejects.toMatchObject({ code: 'blob_corrupt', message: expect.stringContaining(hash) })
      await expect(read()).rejects.toMatchObject({ code: 'blob_not_found' })
      const [aside, ...others] = await readdir(join(directory, 'quarantine'))
      expect(aside).toMatch(new RegExp(`^${hash}-`))
      expect(others).toEqual([])
      await store.put(text(200_000))
      expect((await read()).equals(text(200_000))).toBe(true)
    })

  test('a put over a damaged footer makes the blob anew', async () => {
    const directory = await makeDirectory()
    await using store = await fsStore({ directory })
    for (const bytes of [text(2000), text(600_000)]) {
      const { hash } = await store.put(bytes)
      await truncate(fileOf(directory, hash), 20)
      await store.put(bytes)
      expect((await bytesOf(await store.get(hash))).equals(bytes)).toBe(true)
    }
  })

  test('a bit in the value of a name', async () => {
    const directory = await makeDirectory()
    await using store = await fsStore({ directory })
    await store.names.set('a/B', Buffer.from('value'))
    const path = join(directory, 'names', 'a', '=b~')
    const bytes = await readFile(path)
    bytes.writeUInt8(bytes.readUInt8(2) ^ 1, 2)
    await writeFile(path, bytes)
    await expect(store.names.get('a/B')).rejects.toMatchObject({ code: 'blob_corrupt' })
    expect(await store.names.get('a/B')).toBeUndefined()
  })

  test('one of another version is left alone', async () => {
    const directory = await makeDirectory()
    await using store = await fsStore({ directory })
    const { hash } = await store.put(text(2000))
    const path = fileOf(directory, hash)
    const bytes = await readFile(path)
    const { crc32 } = await import('node:zlib')
    const footer = bytes.subarray(-32)
    footer.writeUInt8(2, 0)
    footer.writeUInt32LE(crc32(footer.subarray(0, 20)), 20)
    await writeFile(path, bytes)
    await expect(store.get(hash)).rejects.toMatchObject({ code: 'store_unavailable' })
    expect((await stat(path)).size).toBe(bytes.length)
  })

  test('a record of a lease that was half written', async () => {
    const directory = await makeDirectory()
    const store = await fsStore({ directory })
    const lease = await store.leases.acquire()
    const { hash } = await store.put(text(10), { lease })
    await store.close()
    await appendFile(join(directory, 'leases', lease.id), 'H half a record')
    await using later = await fsStore({ directory })
    expect(await listOf(later.leases.held())).toEqual([hash])
  })
})

describe('files', () => {
  test('a lease of an earlier process ends when it expires', async () => {
    const directory = await makeDirectory()
    const store = await fsStore({ directory })
    const { hash } = await store.put(text(10), { lease: await store.leases.acquire({ ttlMs: 60_000 }) })
    await store.close()
    let now = Date.now()
    await using later = await fsStore({ directory, now: () => now })
    expect(await later.remove(hash, { idleSinceMs: Number.MAX_SAFE_INTEGER })).toBe(false)
    now += 61_000
    expect(await listOf(later.leases.held())).toEqual([])
    expect(await later.remove(hash, { idleSinceMs: Number.MAX_SAFE_INTEGER })).toBe(true)
    await later.close()
    await using last = await fsStore({ directory, now: () => now })
    expect(await listOf(last.leases.held())).toEqual([])
    expect(await readdir(join(directory, 'leases'))).toEqual([])
  })

  test('what strangers put beside blobs is no blob, and stays', async () => {
    const directory = await makeDirectory()
    await using store = await fsStore({ directory })
    const { hash } = await store.put(text(10))
    const strange = ['README', hash.replace(/^../, 'zz'), `${hash}.bak`, '..data']
    for (const name of strange) await writeFile(join(directory, 'blobs', 'ab', name), 'x')
    await mkdir(join(directory, 'names', 'lost+found'))
    expect((await listOf(store.list())).map((listed) => listed.hash)).toEqual([hash])
    expect(await listOf(store.names.list(''))).toEqual([])
    expect(await readdir(join(directory, 'blobs', 'ab'))).toEqual(expect.arrayContaining(strange))
  })

  test('thousands at once do not run out of files', async () => {
    const directory = await makeDirectory()
    await using store = await fsStore({ directory })
    await using lease = await store.leases.acquire()
    const infos = await Promise.all(Array.from({ length: 4000 }, (_, i) => store.put(text(50 + i), { lease })))
    const sizes = await Promise.all(infos.map(async ({ hash }) => (await bytesOf(await store.get(hash))).length))
    expect(sizes).toEqual(Array.from({ length: 4000 }, (_, i) => 50 + i))
  })

  test('each step comes before what depends on it', async () => {
    const directory = await makeDirectory()
    const steps: string[] = []
    await using store = await fsStore({ directory, step: (what) => void steps.push(what) })
    const lease = await store.leases.acquire()
    steps.length = 0
    await store.put(text(1000), { lease })
    const at = (what: string): number => steps.indexOf(what)
    expect(at('temp.write')).toBeLessThan(at('temp.sync'))
    expect(at('temp.sync')).toBeLessThan(at('rename'))
    expect(at('lease.sync')).toBeLessThan(at('rename'))
    expect(at('rename')).toBeLessThan(steps.lastIndexOf('directory.sync'))
    steps.length = 0
    await store.names.set('a/b', Buffer.from('x'))
    expect(steps).toEqual([
      'temp.create',
      'temp.write',
      'temp.sync',
      'mkdir',
      'directory.sync',
      'rename',
      'directory.sync',
    ])
  })
})

describe('room', () => {
  test('the least recently used that may go are removed', async () => {
    const directory = await makeDirectory()
    const pinned = new Set<BlobHash>()
    await using store = await fsStore({ directory, maxBytes: 1_000_000, evictable: (hash) => !pinned.has(hash) })
    const put: BlobHash[] = []
    for (let i = 0; i < 9; i++) {
      const { hash } = await store.put(noise(100_000, i))
      put.push(hash)
      const used = new Date(2020, 0, 1 + i)
      await utimes(fileOf(directory, hash), used, used)
    }
    const [first, second, third, fourth] = put
    if (!first || !second || !third || !fourth) throw new Error('nothing was put')
    pinned.add(first)
    // Read: used now.
    await bytesOf(await store.get(second))
    await using lease = await store.leases.acquire()
    await store.put(noise(200_000, 100), { lease })
    const left = (await listOf(store.list())).map(({ hash }) => hash)
    expect(left).toContain(first)
    expect(left).toContain(second)
    expect(left).not.toContain(third)
    expect(left).not.toContain(fourth)
    expect(left).toContain(put[8])
  })

  test('where nothing may go, the store is full; removing makes room', async () => {
    const directory = await makeDirectory()
    const store = await fsStore({ directory, maxBytes: 300_000 })
    const { hash } = await store.put(noise(200_000))
    const full = { code: 'store_full' }
    await expect(store.put(noise(200_000, 1))).rejects.toMatchObject(full)
    await expect(store.put([noise(200_000, 1)])).rejects.toMatchObject(full)
    // What is there takes nothing more.
    await store.put(noise(200_000))
    await store.put([noise(200_000)])
    await store.close()
    await using later = await fsStore({ directory, maxBytes: 300_000 })
    await expect(later.put(noise(200_000, 1))).rejects.toMatchObject(full)
    await later.remove(hash)
    await later.put(noise(200_000, 1))
    await expect(later.put(noise(200_000, 2))).rejects.toMatchObject(full)
  })
})
