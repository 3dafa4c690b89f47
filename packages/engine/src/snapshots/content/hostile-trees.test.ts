import { type BlobStore, type Lease, memoryStore } from '@bramble/blobs'
import type { BlobHash } from '@bramble/protocol'
import { layerDirectory } from '@bramble/runtime/testing'
import { expect, onTestFinished, test } from 'vitest'
import { readManifest } from './manifest.ts'
import { materialize } from './materialize.ts'
import { references } from './references.ts'
import { directorySeals } from './testing/directory-seals.ts'
import { all, noImage, storeBytes, storeLines } from './testing/subject.ts'

const attributes = { mode: 0o755, uid: 0, gid: 0, modifiedNs: '0' }
const folder = (path: string) => ({ type: 'directory', path, ...attributes })
const symlink = (path: string, target: string) => ({ type: 'symlink', path, ...attributes, target })
const fifo = (path: string) => ({ type: 'fifo', path, ...attributes })
const link = (path: string, target: string) => ({ type: 'link', path, target })

const HOSTILE: Readonly<Record<string, readonly unknown[]>> = {
  'has a path that leaves': [fifo('../escaped')],
  'has an absolute path': [fifo('/tmp/escaped')],
  'has a path that leaves in base64': [{ ...fifo('Li4vZXNjYXBlZA=='), encoding: 'base64' }],
  'has a path twice': [fifo('a'), fifo('a')],
  'has a path twice, in two forms': [fifo('a'), { ...fifo('YQ=='), encoding: 'base64' }],
  'is out of order': [fifo('b'), fifo('a')],
  'goes through its own link': [symlink('a', '/'), fifo('a/escaped')],
  'is in what is no directory': [fifo('a'), fifo('a/b')],
  'links to what is outside': [link('b', '../secret')],
  'links to what comes later': [fifo('a'), link('b', 'c')],
  'links through a link': [symlink('a', '/etc'), link('b', 'a/passwd')],
  'has a device': [{ type: 'device', path: 'a', ...attributes, major: 1, minor: 1 }],
  'has an attribute of overlayfs': [{ ...folder('a'), xattrs: { 'trusted.overlay.opaque': 'eQ==' } }],
  'has no JSON': ['{'],
  'has a line of nothing': [''],
  'has a line of something else': ['[]'],
}

for (const [what, lines] of Object.entries(HOSTILE))
  test(`a tree that ${what} is refused, and nothing is made`, async (context) => {
    const seals = await directorySeals(await layerDirectory(context), 'other')
    onTestFinished(() => seals[Symbol.asyncDispose]())
    const store = memoryStore()
    await using lease = await store.leases.acquire()
    const manifest = await storeLines(store, lease, lines)
    const made = materialize({ store, seals, name: 'back', manifest, image: noImage, trustMemory: true })
    await expect(made).rejects.toMatchObject({ code: 'import_refused' })
    expect(await seals.list()).toEqual([])
  })

const fileOf = async (store: BlobStore, lease: Lease, change: object) => ({
  type: 'file',
  path: 'file',
  ...attributes,
  content: { ...(await storeBytes(store, lease, 'content')), ...change },
})

test('a file whose content is not what its line says is not made', async (context) => {
  const seals = await directorySeals(await layerDirectory(context), 'other')
  onTestFinished(() => seals[Symbol.asyncDispose]())
  const store = memoryStore()
  await using lease = await store.leases.acquire()
  const changes = [{ sha256: 'ab'.repeat(32) }, { sizeBytes: 6 }, { pieces: [] }]
  for (const change of changes) {
    const line = await fileOf(store, lease, change)
    const manifest = await storeLines(store, lease, [line], { sizeBytes: line.content.sizeBytes })
    const made = materialize({ store, seals, name: 'back', manifest, image: noImage, trustMemory: true })
    await expect(made).rejects.toMatchObject({ code: 'blob_corrupt' })
  }
  const absent = await fileOf(store, lease, { pieces: [{ blob: 'cd'.repeat(32), sizeBytes: 7 }] })
  const manifest = await storeLines(store, lease, [absent], { sizeBytes: 7 })
  const made = materialize({ store, seals, name: 'back', manifest, image: noImage, trustMemory: true })
  await expect(made).rejects.toMatchObject({ code: 'blob_not_found' })
  expect(await seals.list()).toEqual([])
})

test('a manifest that says other than its tree is refused', async (context) => {
  const seals = await directorySeals(await layerDirectory(context), 'other')
  onTestFinished(() => seals[Symbol.asyncDispose]())
  const store = memoryStore()
  await using lease = await store.leases.acquire()
  const line = await fileOf(store, lease, {})
  for (const totals of [{ entries: 2, sizeBytes: 7 }, { sizeBytes: 6 }]) {
    const manifest = await storeLines(store, lease, [line], totals)
    const made = materialize({ store, seals, name: 'back', manifest, image: noImage, trustMemory: true })
    await expect(made).rejects.toMatchObject({ code: 'import_refused' })
  }
  expect(await seals.list()).toEqual([])
})

test('what is no manifest is not read as one', async () => {
  const store = memoryStore()
  const texts = ['', '{', 'null', '[]', '{"version":1,"kind":"bramble.snapshot"}', `"${'x'.repeat(1000)}"`]
  for (const text of texts) {
    const { hash } = await store.put(Buffer.from(text))
    await expect(readManifest(store, hash)).rejects.toMatchObject({ code: 'import_refused' })
    await expect(all(references(store, hash))).rejects.toMatchObject({ code: 'import_refused' })
  }
  const none = 'ef'.repeat(32) as BlobHash
  await expect(readManifest(store, none)).rejects.toMatchObject({ code: 'blob_not_found' })
})
