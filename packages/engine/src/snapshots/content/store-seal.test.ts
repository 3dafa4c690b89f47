import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { cp, mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type BlobStore, collect, fsStore, memoryStore } from '@bramble/blobs'
import type { SealStore } from '@bramble/runtime'
import { FILE_SYSTEMS, type FileSystem, layerDirectory } from '@bramble/runtime/testing'
import { expect, onTestFinished, type TestContext, test } from 'vitest'
import { readManifest } from './manifest.ts'
import { materialize } from './materialize.ts'
import { readTree } from './read-tree.ts'
import { references } from './references.ts'
import { type StoreSealOptions, storeSeal } from './store-seal.ts'
import { type DirectorySeals, directorySeals } from './testing/directory-seals.ts'
import { about, all, noImage, withoutVersions } from './testing/subject.ts'

const run = promisify(execFile)
const MIB = 1024 * 1024

const openSeals = async (context: TestContext, system: FileSystem): Promise<DirectorySeals> => {
  const directory = await layerDirectory(context, system)
  const seals = await directorySeals(directory, system === 'btrfs' ? 'btrfs' : 'other')
  onTestFinished(() => seals[Symbol.asyncDispose]())
  return seals
}

const openStore = async (): Promise<BlobStore> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-store-'))
  const store = await fsStore({ directory })
  onTestFinished(async () => {
    await store.close()
    await rm(directory, { recursive: true, force: true })
  })
  return store
}

const keep = async (store: BlobStore, seals: SealStore, seal: string, options: Partial<StoreSealOptions> = {}) => {
  await using lease = await store.leases.acquire()
  return await storeSeal({ store, seals, seal, lease, ...about, ...options })
}

type Three = [string, string, string]

/** The hashes of all files. */
const bytesOf = async (directory: string): Promise<string> =>
  (await run('sh', ['-c', 'find . -type f | sort | tr "\\n" "\\0" | xargs -0 md5sum'], { cwd: directory })).stdout

const EVERY_KIND = `
  mkdir -p a/b "with space" empty; echo text > a/b/file; printf '' > a/none; head -c 3000000 /dev/urandom > a/large
  ln a/b/file hard; ln -s ../etc/passwd a/link; mkfifo -m 620 a/pipe; mknod gone c 0 0
  chmod 4755 a/b/file; chown 1000:4294967294 a/large; chmod 1777 empty; chmod 000 a/none
  printf x > "$(printf 'bytes-\\377-name')"; ln -s "$(printf 'to-\\377')" a/odd; touch -d 1960-01-01 old; truncate -s 5M holes
  touch -d @1700000000.123456789 a`

for (const system of FILE_SYSTEMS)
  test(`a seal on ${system} comes back from the store as it was`, async (context) => {
    const seals = await openSeals(context, system)
    const store = await openStore()
    await run('sh', ['-ec', EVERY_KIND], { cwd: seals.layer })
    await seals.take('taken')
    const { manifest, hash, stats } = await keep(store, seals, 'taken')
    expect(await readManifest(store, hash)).toEqual(manifest)
    await materialize({ store, seals, name: 'back', manifest, image: noImage, trustMemory: false })
    const entries = await all(seals.entries('taken'))
    expect(entries).toHaveLength(15)
    expect(manifest.filesystem.entries).toBe(entries.length)
    expect(withoutVersions(await all(seals.entries('back')))).toEqual(withoutVersions(entries))
    expect(await bytesOf(seals.directory('back'))).toBe(await bytesOf(seals.directory('taken')))
    // A snapshot of the copy is the same one, but for what it is told.
    expect((await keep(store, seals, 'back')).hash).toBe(hash)
    expect(stats).toMatchObject({ knownFiles: 0 })
  })

test('what a sandbox sees is the same over the copy, with what it deleted and replaced', async (context) => {
  const seals = await openSeals(context, 'btrfs')
  const store = memoryStore()
  const { work } = seals
  const [image, merged, copy] = ['image', 'merged', 'upper-copy'].map((name) => join(work, '..', name)) as Three
  for (const directory of [image, merged]) await mkdir(directory)
  const see = async (upper: string): Promise<string> => {
    await run('mount', [
      '-t',
      'overlay',
      'overlay',
      '-o',
      `lowerdir=${image},upperdir=${upper},workdir=${work}`,
      merged,
    ])
    try {
      const { stdout } = await run('sh', ['-ec', 'find . | sort; find . -type f | sort | xargs md5sum'], {
        cwd: merged,
      })
      return stdout
    } finally {
      await run('umount', [merged])
    }
  }
  await run(
    'sh',
    ['-ec', 'mkdir -p d/sub/deep e; for n in d/1 d/2 d/sub/3 d/sub/deep/4 e/5 e/6; do echo $n > $n; done'],
    {
      cwd: image,
    },
  )
  await run('mount', [
    '-t',
    'overlay',
    'overlay',
    '-o',
    `lowerdir=${image},upperdir=${seals.layer},workdir=${work}`,
    merged,
  ])
  await run('sh', ['-ec', 'rm -r d e/5; mkdir -p d/sub; echo new > d/2; echo new > d/sub/new; echo more >> e/6'], {
    cwd: merged,
  })
  await run('umount', [merged])
  await seals.take('taken')
  const { manifest } = await keep(store, seals, 'taken', { image: { digest: 'sha256:test', rootfs: image } })
  const lines = await all(readTree(store, manifest.filesystem.tree))
  expect(lines.filter(({ type }) => type === 'deleted').map(({ path }) => path)).toEqual([
    'd/1',
    'd/sub/3',
    'd/sub/deep',
    'e/5',
  ])
  await materialize({ store, seals, name: 'back', manifest, image: { rootfs: image }, trustMemory: false })
  const before = await see(seals.layer)
  await run('cp', ['-a', seals.directory('back'), copy])
  expect(await see(copy)).toBe(before)
})

test('of ten thousand files, those that changed are read and stored, and no others', async (context) => {
  const seals = await openSeals(context, 'btrfs')
  const store = await openStore()
  const bytes = 10_000 * 2000
  for (let folder = 0; folder < 100; folder++) {
    await mkdir(join(seals.layer, `d${folder}`))
    const files = Array.from({ length: 100 }, (_, file) => file)
    await Promise.all(files.map((file) => writeFile(join(seals.layer, `d${folder}/f${file}`), randomBytes(2000))))
  }
  await seals.take('first')
  const first = await keep(store, seals, 'first')
  expect(first.stats).toMatchObject({ files: 10_000, knownFiles: 0 })
  for (let file = 0; file < 100; file++) await writeFile(join(seals.layer, `d${file}/f${file}`), randomBytes(2000))
  await seals.take('second')
  const read: string[] = []
  const watched: SealStore = {
    ...seals,
    read: (name, path, options) => {
      read.push(path)
      return seals.read(name, path, options)
    },
  }
  const ancestor = { manifest: first.manifest, seal: 'first' }
  const second = await keep(store, watched, 'second', { ancestor, parent: first.hash })
  expect(second.stats).toMatchObject({ files: 10_000, knownFiles: 9900 })
  expect(read).toHaveLength(100)
  // A hundredth of it, and the lines: in this tree every fourth part of what is stored, in one of larger files next to nothing.
  expect(second.stats.newStoredBytes).toBeLessThan(bytes / 100 + first.manifest.filesystem.tree.sizeBytes / 4)
  // Without the seal of before all are read; what is there is found by its hash.
  const { manifest } = first
  const third = await keep(store, seals, 'second', { ancestor: { manifest }, parent: first.hash })
  expect(third.hash).toBe(second.hash)
  expect(third.stats).toMatchObject({ knownFiles: 0, newStoredBytes: expect.any(Number) })
  expect(third.stats.newStoredBytes).toBeLessThan(bytes / 100)
  await materialize({ store, seals, name: 'back', manifest: second.manifest, image: noImage, trustMemory: false })
  expect(await bytesOf(seals.directory('back'))).toBe(await bytesOf(seals.directory('second')))
})

test('an ancestor that is gone, or never was, only costs time', async (context) => {
  const seals = await openSeals(context, 'btrfs')
  const store = memoryStore()
  await writeFile(join(seals.layer, 'file'), randomBytes(100_000))
  await seals.take('first')
  const { manifest, hash } = await keep(store, seals, 'first')
  await seals.take('second')
  const gone = await keep(store, seals, 'second', { ancestor: { manifest, seal: 'removed' } })
  expect(gone.hash).toBe(hash)
  await collect(store, [], { graceMs: -1000 })
  expect(await all(store.list())).toEqual([])
  const anew = await keep(store, seals, 'second', { ancestor: { manifest, seal: 'first' } })
  expect(anew).toMatchObject({ hash, stats: { knownFiles: 0 } })
  await materialize({ store, seals, name: 'back', manifest: anew.manifest, image: noImage, trustMemory: false })
})

test('all that a snapshot refers to is held while it is made, and is what a collection keeps', async (context) => {
  const seals = await openSeals(context, 'tmpfs')
  const store = memoryStore()
  await run('sh', ['-ec', EVERY_KIND], { cwd: seals.layer })
  await seals.take('taken')
  const lease = await store.leases.acquire()
  const { hash } = await storeSeal({ store, seals, seal: 'taken', lease, ...about })
  const needed = new Set(await all(references(store, hash)))
  await collect(store, [], { graceMs: -1000 })
  expect(new Set((await all(store.list())).map((blob) => blob.hash))).toEqual(needed)
  await lease.release()
  await collect(store, references(store, hash), { graceMs: -1000 })
  expect(new Set((await all(store.list())).map((blob) => blob.hash))).toEqual(needed)
  await collect(store, [], { graceMs: -1000 })
  expect(await all(store.list())).toEqual([])
})

test('a snapshot that is given up leaves nothing', async (context) => {
  const seals = await openSeals(context, 'tmpfs')
  const store = memoryStore()
  for (let file = 0; file < 200; file++) await writeFile(join(seals.layer, `f${file}`), randomBytes(50_000))
  await seals.take('taken')
  const controller = new AbortController()
  const reason = new Error('enough')
  let reads = 0
  const slow: SealStore = {
    ...seals,
    read: (name, path, options) => {
      if (++reads === 100) controller.abort(reason)
      return seals.read(name, path, options)
    },
  }
  await expect(keep(store, slow, 'taken', { signal: controller.signal })).rejects.toBe(reason)
  await collect(store, [], { graceMs: -1000 })
  expect(await all(store.list())).toEqual([])
  const { manifest } = await keep(store, seals, 'taken')
  const other = new AbortController()
  const options = { store, seals, manifest, image: noImage, trustMemory: false }
  const aborting: SealStore = {
    ...seals,
    write: (name, source, more) => {
      const read: typeof source.read = (path) => {
        other.abort(reason)
        return source.read(path)
      }
      return seals.write(name, { ...source, read }, more)
    },
  }
  await expect(materialize({ ...options, seals: aborting, name: 'back', signal: other.signal })).rejects.toBe(reason)
  expect((await seals.list()).map(({ name }) => name)).toEqual(['taken'])
})

test('what does not fit the disk is refused before anything is made; holes take nothing', async (context) => {
  const seals = await openSeals(context, 'btrfs')
  const store = memoryStore()
  await writeFile(join(seals.layer, 'file'), randomBytes(3 * MIB))
  await run('truncate', ['-s', '60M', join(seals.layer, 'holes')])
  await seals.take('taken')
  const { manifest } = await keep(store, seals, 'taken')
  const options = { store, seals, name: 'back', manifest, image: noImage, trustMemory: false }
  await expect(materialize({ ...options, diskBytes: 2 * MIB })).rejects.toMatchObject({ code: 'snapshot_incompatible' })
  expect((await seals.list()).map(({ name }) => name)).toEqual(['taken'])
  await materialize({ ...options, diskBytes: 8 * MIB })
  const { size, blocks } = await stat(join(seals.directory('back'), 'holes'))
  expect({ size, few: blocks < 2000 }).toEqual({ size: 60 * MIB, few: true })
})

test('directories that a tree leaves out are made as the image has them', async (context) => {
  const seals = await openSeals(context, 'tmpfs')
  const store = memoryStore()
  const rootfs = join(seals.layer, '../image')
  await mkdir(join(rootfs, 'etc/app'), { recursive: true })
  await run('sh', ['-ec', 'chmod 750 etc/app; chown 7:8 etc/app; touch -d @1000 etc/app'], { cwd: rootfs })
  await cp(rootfs, seals.layer, { recursive: true, preserveTimestamps: true })
  await writeFile(join(seals.layer, 'etc/app/file'), 'x')
  await seals.take('taken')
  const partial: SealStore = {
    ...seals,
    async *entries(name, options) {
      for await (const entry of seals.entries(name, options)) if (entry.type !== 'directory') yield entry
    },
  }
  const { manifest } = await keep(store, partial, 'taken')
  await materialize({ store, seals, name: 'back', manifest, image: { rootfs }, trustMemory: false })
  expect(await all(seals.entries('back'))).toMatchObject([
    { path: 'etc', type: 'directory', mode: 0o755 },
    { path: 'etc/app', type: 'directory', mode: 0o750, uid: 7, gid: 8, modifiedNs: 1_000_000_000_000n },
    { path: 'etc/app/file', type: 'file' },
  ])
})
