import { fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { type BlobStore, fsStore, memoryStore } from '@bramble/blobs'
import type { BlobHash } from '@bramble/protocol'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { randomFrom } from '../../merge/testing/random.ts'
import { readManifest } from '../content/manifest.ts'
import { references } from '../content/references.ts'
import { exportSnapshot } from './export-snapshot.ts'
import { clearImports, importSnapshot } from './import-snapshot.ts'
import { tarHeader } from './tar.ts'
import {
  ATTRIBUTES,
  type Files,
  forge,
  type Member,
  pack,
  putSnapshot,
  REQUIRES,
  sha,
  unpack,
  whole,
} from './testing/archives.ts'

const FILES: Files = {
  'etc/a': Buffer.from('one'),
  'etc/b': Buffer.from('two'),
  empty: Buffer.alloc(0),
  'var/large': randomBytes(3_000_000),
  'var/zeros': Buffer.alloc(2_000_000),
}
const MEMORY: Files = { 'pages-1.img': randomBytes(500_000), 'core-1.img': Buffer.from('core') }

let directory = ''
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'bramble-archive-'))
})
afterEach(() => rm(directory, { recursive: true, force: true }))

const collect = async (source: AsyncIterable<Uint8Array>): Promise<Buffer> => {
  const pieces: Uint8Array[] = []
  for await (const piece of source) pieces.push(piece)
  return Buffer.concat(pieces)
}
const stored = async (store: BlobStore): Promise<Set<BlobHash>> => {
  const hashes = new Set<BlobHash>()
  for await (const { hash } of store.list()) hashes.add(hash)
  return hashes
}
const make = async (files = FILES, memory?: Files) => {
  const store = memoryStore()
  const hash = await putSnapshot(store, await store.leases.acquire(), files, memory)
  return { store, hash, archive: async () => collect(await exportSnapshot({ store, hash })) }
}
const take = async (
  bytes: Uint8Array | AsyncIterable<Uint8Array>,
  more: { maxBytes?: number; signal?: AbortSignal } = {},
) => {
  const store = memoryStore()
  const lease = await store.leases.acquire()
  const source = bytes instanceof Uint8Array ? inPieces(bytes) : bytes
  try {
    return { store, ...(await importSnapshot({ store, source, lease, stagingDirectory: directory, ...more })) }
  } finally {
    expect(await readdir(directory)).toEqual([])
  }
}
async function* inPieces(bytes: Uint8Array, pieceBytes = 50_000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes)
}

/** It is refused, says why, and has changed nothing. */
const refuses = async (bytes: Buffer, why: RegExp, maxBytes?: number): Promise<void> => {
  const store = memoryStore()
  const lease = await store.leases.acquire()
  const run = importSnapshot({ store, lease, source: inPieces(bytes), stagingDirectory: directory, maxBytes })
  await expect(run).rejects.toMatchObject({ code: 'import_refused', detail: expect.stringMatching(why) })
  expect(await stored(store)).toEqual(new Set())
  expect(await readdir(directory)).toEqual([])
}

describe('a snapshot that is exported', () => {
  test('is the same where it is imported, and exported again', async () => {
    const { store, hash, archive } = await make(FILES, MEMORY)
    const bytes = await archive()
    const imported = await take(bytes)
    expect(imported.hash).toBe(hash)
    expect(imported.manifest).toEqual(await readManifest(store, hash))
    const needed = new Set(await Array.fromAsync(references(store, hash)))
    expect(await stored(imported.store)).toEqual(needed)
    expect(imported.blobs).toBe(needed.size - 1)
    expect(await collect(await exportSnapshot({ store: imported.store, hash }))).toEqual(bytes)
    expect((await take(zstdDecompressSync(bytes))).hash).toBe(hash)
    expect((await take(zstdCompressSync(zstdDecompressSync(bytes), { params: { 100: 19 } }))).hash).toBe(hash)
  })

  test('without its memory is a snapshot of its own, with the same files', async () => {
    const { store, hash } = await make(FILES, MEMORY)
    const imported = await take(await collect(await exportSnapshot({ store, hash, memory: false })))
    const { memory, ...manifest } = await readManifest(store, hash)
    expect(memory).toBeDefined()
    expect(imported.manifest).toEqual(manifest)
    const kept = await stored(imported.store)
    expect(kept.has(sha(MEMORY['pages-1.img'] ?? ''))).toBe(false)
  })

  test('is an archive that tar reads', async () => {
    const { archive } = await make()
    const path = join(directory, 'x.tar')
    await writeFile(path, zstdDecompressSync(await archive()))
    const { execFileSync } = await import('node:child_process')
    const names = execFileSync('tar', ['tf', path], { encoding: 'utf8' }).trim().split('\n')
    expect(names.slice(0, 2)).toEqual(['bramble-snapshot.json', 'manifest.json'])
    expect(names.at(-1)).toBe('end.json')
    await rm(path)
  })

  test('is read no faster than it is taken', async () => {
    const large = Object.fromEntries(Array.from({ length: 40 }, (_, at) => [`f${at}`, randomBytes(1_000_000)]))
    const { store, hash } = await make(large)
    let gets = 0
    const counting: BlobStore = {
      ...store,
      get: (...asked) => {
        gets++
        return store.get(...asked)
      },
    }
    const stream = (await exportSnapshot({ store: counting, hash }))[Symbol.asyncIterator]()
    for (let taken = 0; taken < 1_000_000; ) taken += (await stream.next()).value?.length ?? 0
    expect(gets).toBeLessThan(20)
    await stream.return?.()
  })

  test('ends with the error that its store has', async () => {
    const { store, hash } = await make()
    await expect(exportSnapshot({ store, hash: sha('other') })).rejects.toMatchObject({ code: 'blob_not_found' })
    const [piece] = (await readManifest(store, hash)).filesystem.tree.pieces
    if (piece) await store.remove(piece.blob)
    await expect(collect(await exportSnapshot({ store, hash }))).rejects.toMatchObject({ code: 'blob_not_found' })
  })

  test('stops when it is told to', async () => {
    const { store, hash } = await make()
    const stop = new AbortController()
    const stream = (await exportSnapshot({ store, hash, signal: stop.signal }))[Symbol.asyncIterator]()
    await stream.next()
    stop.abort(new Error('enough'))
    const rest = async (): Promise<void> => {
      for (let next = await stream.next(); !next.done; next = await stream.next());
    }
    await expect(rest()).rejects.toThrow('enough')
  })
})

const file = (path: string, content = whole(Buffer.from('x')), more: object = {}) => ({
  type: 'file',
  path,
  ...ATTRIBUTES,
  content,
  ...more,
})
const X = Buffer.from('x')
const change = (members: Member[], name: RegExp, edit: (member: Member) => Member[]): Member[] =>
  members.flatMap((member) => (name.test(member.name) ? edit(member) : [member]))

describe('an import refuses, and changes nothing,', () => {
  test('what is right is taken', async () => {
    const { hash } = await take(pack(forge([file('a')], [X])))
    expect(hash).toMatch(/^[0-9a-f]{64}$/)
  })

  test('set-uid files are taken, as they are', async () => {
    const { manifest } = await take(pack(forge([file('su', undefined, { mode: 0o6755 })], [X])))
    expect(manifest.filesystem.entries).toBe(1)
  })

  const SYMLINK = { type: 'symlink', path: 'l', ...ATTRIBUTES, target: '/etc' }
  test.each<[string, unknown[], Uint8Array[], RegExp]>([
    ['a path that leaves the root', [file('../x')], [X], /not a path below the root/],
    ['an absolute path', [file('/etc/passwd')], [X], /not a path below the root/],
    ['a path with a dot in it', [file('a/./b')], [X], /not a path below the root/],
    ['a path with a NUL', [file('a\0b')], [X], /not a path below the root/],
    ['a name of more than 255 bytes', [file('n'.repeat(256))], [X], /not a path below the root/],
    ['a path of more than 8192 characters', [file(`${'a/'.repeat(4096)}b`)], [X], /not as it should be/],
    ['a file below a symlink', [SYMLINK, file('l/passwd')], [X], /below what is no directory/],
    ['a file below a file', [file('a'), file('a/b')], [X], /below what is no directory/],
    ['a file below what is deleted', [{ type: 'deleted', path: 'd' }, file('d/x')], [X], /below what is no directory/],
    ['a link to a file outside', [{ type: 'link', path: 'x', target: '../../etc/shadow' }], [], /link to no file/],
    ['a link to a symlink', [SYMLINK, { type: 'link', path: 'x', target: 'l' }], [], /link to no file/],
    [
      'a link to what comes later',
      [{ type: 'link', path: 'a', target: 'b' }, file('b')],
      [X],
      /link to what comes later/,
    ],
    ['a device', [{ type: 'device', path: 'sda', ...ATTRIBUTES, major: 8, minor: 0 }], [], /not as it should be/],
    ['a path twice', [file('a'), file('a')], [X], /twice, or too late/],
    ['paths out of order', [file('b'), file('a')], [X], /twice, or too late/],
    ['a mode with more than permissions', [file('a', undefined, { mode: 0o104755 })], [X], /not as it should be/],
    [
      'attributes of overlayfs',
      [file('a', undefined, { xattrs: { 'trusted.overlay.redirect': 'L2V0Yw==' } })],
      [X],
      /not allowed/,
    ],
    [
      'a path in another form',
      [file(Buffer.from('a').toString('base64'), undefined, { encoding: 'base64' })],
      [X],
      /another form/,
    ],
    ['a line that is no JSON', ['{"type":'], [], /not JSON/],
    ['a member too many in a line', [file('a', undefined, { more: 1 })], [X], /not as it should be/],
    ['a content that is not the hash it says', [file('a', { ...whole(X), sha256: sha('y') })], [X], /does not fit/],
    ['a content that is longer than its pieces', [file('a', { ...whole(X), sizeBytes: 2 })], [X], /does not fit/],
    [
      'a piece past the end of its blob',
      [file('a', { sizeBytes: 1, sha256: sha('x'), pieces: [{ blob: sha(X), sizeBytes: 1, offset: 1, length: 1 }] })],
      [X],
      /does not fit/,
    ],
    ['a blob that is not there', [file('a')], [], /end\.json comes where blobs\/2d711642/],
    ['a blob that nobody needs', [file('a')], [X, Buffer.from('y')], /comes where end\.json/],
    ['a blob twice', [file('a'), file('b')], [X, X], /comes where end\.json/],
    [
      'blobs in another order',
      [file('a', whole(Buffer.from('y'))), file('b')],
      [X, Buffer.from('y')],
      /comes where blobs/,
    ],
  ])('%s', async (_name, entries, blobs, why) => {
    await refuses(pack(forge(entries, blobs)), why)
  })

  const manifest = (edit: (manifest: Record<string, unknown>) => Record<string, unknown>): Buffer =>
    pack(forge([file('a')], [X], edit))
  const memory = { requires: REQUIRES, files: { 'm.img': whole(X) }, sizeBytes: 2, processes: [], ports: [] }
  test.each<[string, Buffer, RegExp]>([
    [
      'an unknown version of the manifest',
      manifest((one) => ({ ...one, version: 2 })),
      /version 2; this node reads version 1/,
    ],
    ['a manifest of something else', manifest((one) => ({ ...one, kind: 'other' })), /manifest\.json: kind/],
    ['a manifest with more in it', manifest((one) => ({ ...one, extra: 1 })), /manifest\.json/],
    [
      'a manifest that counts otherwise',
      manifest((one) => ({ ...one, filesystem: { ...(one.filesystem as object), entries: 7 } })),
      /other numbers/,
    ],
    ['a memory of another size', manifest((one) => ({ ...one, memory })), /another size of the memory/],
    [
      'memory files with names of paths',
      manifest((one) => ({ ...one, memory: { ...memory, files: { '../x': whole(X) } } })),
      /manifest\.json/,
    ],
    ['nothing', Buffer.alloc(0), /cut off/],
    ['zeros', Buffer.alloc(4096), /ends before/],
    ['another archive', pack([{ name: 'etc/passwd', bytes: X }]), /comes where bramble-snapshot\.json/],
    ['text', Buffer.from('hello '.repeat(500)), /not one of a snapshot/],
  ])('%s', async (_name, bytes, why) => {
    await refuses(bytes, why)
  })

  const good = forge([file('a')], [X])
  const typed = (type: string): Buffer => {
    const header = tarHeader(`blobs/${sha(X)}`, 1)
    header.write(type, 156)
    header.write('        ', 148)
    header.write(
      `${header
        .reduce((sum, byte) => sum + byte, 0)
        .toString(8)
        .padStart(6, '0')}\0 `,
      148,
    )
    return header
  }
  test.each<[string, Buffer, RegExp]>([
    [
      'a blob with other bytes',
      pack(change(good, /blobs.2d/, (one) => [{ ...one, bytes: Buffer.from('y') }])),
      /not what it is named/,
    ],
    [
      'a blob of another size',
      pack(change(good, /blobs.2d/, (one) => [{ ...one, bytes: Buffer.from('xx') }])),
      /has 2 bytes, and not the 1/,
    ],
    [
      'a manifest of another hash',
      pack(change(good, /manifest/, (one) => [{ ...one, bytes: Buffer.concat([one.bytes, Buffer.from(' ')]) }])),
      /does not have the hash/,
    ],
    [
      'an archive of an unknown version',
      pack(
        change(good, /bramble/, (one) => [
          { ...one, bytes: Buffer.from(one.bytes.toString().replace('"version":1', '"version":9')) },
        ]),
      ),
      /version 9/,
    ],
    ['two manifests', pack(change(good, /manifest/, (one) => [one, one])), /manifest\.json comes where blobs/],
    [
      'an end that tells of other blobs',
      pack(change(good, /end/, (one) => [{ ...one, bytes: Buffer.from('{"blobs":3,"sizeBytes":4}') }])),
      /end tells/,
    ],
    ['no end', pack(change(good, /end/, () => [])), /ends before/],
    ['a member after the end', pack([...good, { name: 'x', bytes: X }]), /more than the snapshot/],
    [
      'a symlink among the members',
      pack(change(good, /blobs.2d/, (one) => [{ ...one, header: typed('2') }])),
      /not one of a snapshot/,
    ],
    [
      'a device among the members',
      pack(change(good, /blobs.2d/, (one) => [{ ...one, header: typed('3') }])),
      /not one of a snapshot/,
    ],
    [
      'a member with a giant name',
      pack(change(good, /blobs.2d/, (one) => [{ ...one, header: typed('L') }])),
      /not one of a snapshot/,
    ],
    ['bytes after the end', Buffer.concat([pack(good), Buffer.from('more')]), /after the end/],
    ['zeros without end', Buffer.concat([pack(good), Buffer.alloc(10_000_000)]), /after the end/],
    [
      'zeros without end, compressed',
      zstdCompressSync(Buffer.concat([pack(good), Buffer.alloc(10_000_000)])),
      /after the end/,
    ],
    ['another compression', Buffer.concat([Buffer.from([0x1f, 0x8b]), pack(good)]), /not one of a snapshot/],
    [
      'a damaged compression',
      Buffer.concat([zstdCompressSync(pack(good)).subarray(0, 200), Buffer.alloc(300, 7)]),
      /compression/,
    ],
    ['half of a compressed file', zstdCompressSync(pack(good)).subarray(0, 300), /compression|cut off/],
  ])('%s', async (_name, bytes, why) => {
    await refuses(bytes, why)
  })

  test('what is more than was allowed, by its blobs and by what they expand to', async () => {
    const zeros = Buffer.alloc(1_000_000)
    const piece = { blob: sha(zeros), sizeBytes: zeros.length }
    const bomb = {
      sizeBytes: 50_000_000_000,
      sha256: sha('?'),
      pieces: Array.from({ length: 50_000 }, () => piece),
    }
    await refuses(pack(forge([file('a', bomb)], [zeros])), /more than 10000000 bytes, holes included/, 10_000_000)
    await refuses(pack(forge([file('a', whole(zeros))], [zeros])), /more than 900000 bytes/, 900_000)
    const claims = { ...whole(X), sizeBytes: 60_000_000_000, pieces: [{ blob: sha(X), sizeBytes: 60_000_000_000 }] }
    await refuses(pack(forge([file('a', claims)], [X])), /has 1 bytes, and not the 60000000000/)
    const giant = { name: `blobs/${sha(X)}`, bytes: X, header: tarHeader(`blobs/${sha(X)}`, 60_000_000_000) }
    await refuses(pack(change(forge([file('a', claims)], [X]), /blobs.2d/, () => [giant])), /cut off/)
    const members = forge([file('a')], [X])
    await refuses(
      pack(change(members, /manifest/, (one) => [{ ...one, header: tarHeader(one.name, 60_000_000_000) }])),
      /more than 16777216 bytes/,
    )
  })

  test('whatever is cut off, at every place', async () => {
    const bytes = pack(forge([file('a'), file('b', whole(Buffer.from('yy')))], [X, Buffer.from('yy')]))
    const packed = zstdCompressSync(bytes)
    for (let end = 0; end < bytes.length; end += 97) await refuses(bytes.subarray(0, end), /cut off|ends before/)
    for (let end = 1; end < packed.length; end += 41)
      await refuses(packed.subarray(0, end), /cut off|compression|not one/)
  })

  test('the end of what is exported, too: without its last bytes, with other ones, with more', async () => {
    const { archive } = await make({ a: Buffer.from('one') })
    const bytes = await archive()
    for (let gone = 1; gone <= 24; gone++) {
      await refuses(bytes.subarray(0, -gone), /compression|cut off/)
      const changed = Buffer.from(bytes)
      changed.writeUInt8(changed.readUInt8(bytes.length - gone) ^ 0x55, bytes.length - gone)
      await refuses(changed, /compression|cut off|after the end|more than the snapshot|not one/)
    }
    for (const more of [Buffer.from('more'), Buffer.alloc(64), bytes])
      await refuses(Buffer.concat([bytes, more]), /after the end/)
  })

  test('or takes what is the same: random bits are changed', async () => {
    const { archive, hash } = await make({ 'd/a': Buffer.from('one'), b: randomBytes(3000), c: Buffer.alloc(0) })
    const packed = await archive()
    const plain = zstdDecompressSync(packed)
    let refusals = 0
    for (let seed = 0; seed < 120; seed++) {
      const random = randomFrom(seed)
      const bytes = Buffer.from(seed % 2 ? packed : plain)
      for (let count = 1 + random.below(3); count > 0; count--) {
        const at = random.below(bytes.length)
        bytes.writeUInt8(bytes.readUInt8(at) ^ (1 << random.below(8)), at)
      }
      const imported = await take(bytes).catch((thrown) => {
        expect(thrown, `seed ${seed}`).toMatchObject({ code: 'import_refused' })
        refusals++
      })
      if (imported) expect(imported.hash, `seed ${seed}`).toBe(hash)
    }
    expect(refusals).toBeGreaterThan(115)
  }, 120_000)
})

describe('an import that is interrupted', () => {
  test('by its signal, while nothing comes, leaves nothing and closes its source', async () => {
    const { archive } = await make()
    const bytes = await archive()
    const stop = new AbortController()
    async function* stalled(): AsyncGenerator<Uint8Array> {
      yield bytes.subarray(0, 100_000)
      stop.abort(new Error('enough'))
      await new Promise(() => undefined)
    }
    await expect(take(stalled(), { signal: stop.signal })).rejects.toThrow('enough')
  })

  test('by an error of its source, has that error', async () => {
    const { archive } = await make()
    const bytes = await archive()
    let closed = false
    async function* broken(): AsyncGenerator<Uint8Array> {
      try {
        yield bytes.subarray(0, 100_000)
        throw new Error('the client is gone')
      } finally {
        closed = true
      }
    }
    await expect(take(broken())).rejects.toThrow('the client is gone')
    expect(closed).toBe(true)
  })

  test('by kill -9 leaves its staging folder alone, which the next start removes', async () => {
    const { archive } = await make()
    const path = join(directory, 'archive')
    await writeFile(path, await archive())
    const [storeDirectory, staging] = [join(directory, 'store'), join(directory, 'staging')]
    await clearImports(staging)
    const child = fork(join(import.meta.dirname, 'testing/import-child.ts'), [path, storeDirectory, staging])
    const exited = once(child, 'exit')
    await Promise.race([once(child, 'message'), exited.then(() => Promise.reject(new Error('it ended by itself')))])
    child.kill('SIGKILL')
    await exited
    expect(await readdir(staging)).toHaveLength(1)
    await using store = await fsStore({ directory: storeDirectory })
    expect(await stored(store)).toEqual(new Set())
    await clearImports(staging)
    expect(await readdir(staging)).toEqual([])
  })
})

test('members are read as they were packed', () => {
  const members = forge([file('a')], [X])
  expect(unpack(pack(members)).map(({ name }) => name)).toEqual(members.map(({ name }) => name))
})
