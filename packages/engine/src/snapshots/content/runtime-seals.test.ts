import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { memoryStore } from '@bramble/blobs'
import { newId } from '@bramble/protocol'
import { createLayerFiles, type FakeHost, fake, makeFakeHost, type Runtime, type SealStore } from '@bramble/runtime'
import { layerDirectory, outputOf } from '@bramble/runtime/testing'
import { expect, onTestFinished, test } from 'vitest'
import { namedImage } from '../../testing.ts'
import { readMemoryFile } from './manifest.ts'
import { layerSource, materialize } from './materialize.ts'
import { references } from './references.ts'
import { storeSeal } from './store-seal.ts'
import { storeTree } from './store-tree.ts'
import { about, all, withoutVersions } from './testing/subject.ts'

const image = namedImage('base')

const open = async (host: FakeHost): Promise<{ runtime: Runtime; seals: SealStore }> => {
  const probe = await fake()({ host })
  if (!probe.available) throw new Error(probe.reason)
  const { runtime } = probe
  onTestFinished(() => runtime.close())
  if (!runtime.seals) throw new Error('the fake runtime keeps no seals')
  return { runtime, seals: runtime.seals }
}

test('a state with memory goes to another host by way of the store, and without where nobody vouches for it', async () => {
  const host = makeFakeHost()
  const [here, there] = [await open(host), await open(makeFakeHost(host))]
  const resources = { cpus: 1, memoryMb: 64, diskMb: 64, pids: 32 }
  const sandbox = await here.runtime.create({ id: newId('sandbox'), image, resources })
  await outputOf(sandbox, 'echo hello > /root/file; rm /home/app/hello.txt; mkdir /root/new')
  await sandbox.seal?.({ name: 'taken', memory: true })
  const store = memoryStore()
  await using lease = await store.leases.acquire()
  const { manifest, hash } = await storeSeal({ store, seals: here.seals, seal: 'taken', lease, ...about, image })
  const sealed = await here.seals.memory('taken')
  expect(manifest.memory).toMatchObject({ requires: sealed?.requires, sizeBytes: sealed?.sizeBytes })
  const needed = new Set(await all(references(store, hash)))
  for (const { name } of sealed?.files ?? []) {
    const bytes = Buffer.concat(await all(readMemoryFile(store, manifest, name)))
    expect(bytes).toEqual(Buffer.concat(await all(here.seals.readMemory('taken', name))))
    for (const { blob } of manifest.memory?.files[name]?.pieces ?? []) expect(needed).toContain(blob)
  }
  expect(() => readMemoryFile(store, manifest, 'toString')).toThrow(expect.objectContaining({ code: 'file_not_found' }))

  const options = { store, seals: there.seals, manifest, image }
  await materialize({ ...options, name: 'trusted', trustMemory: true })
  await materialize({ ...options, name: 'files', trustMemory: false })
  expect(await there.seals.list()).toEqual([
    { name: 'trusted', memory: true },
    { name: 'files', memory: false },
  ])
  const entries = withoutVersions(await all(here.seals.entries('taken')))
  for (const name of ['trusted', 'files'])
    expect(withoutVersions(await all(there.seals.entries(name)))).toEqual(entries)
  const from = { seal: 'trusted', memory: true }
  const branch = await there.runtime.create({ id: newId('sandbox'), image, resources, from })
  expect(await outputOf(branch, 'cat /root/file')).toBe('hello\n')
  const files = await storeSeal({
    ...{ store, seals: here.seals, seal: 'taken', lease },
    ...about,
    image,
    memory: false,
  })
  expect(files.manifest.memory).toBeUndefined()
  expect(files.manifest.filesystem).toEqual(manifest.filesystem)
})

test('a plain directory is a tree, too', async (context) => {
  const base = await layerDirectory(context)
  const [from, to] = [join(base, 'from'), join(base, 'to')]
  await mkdir(join(from, 'usr/bin'), { recursive: true })
  await mkdir(to)
  await writeFile(join(from, 'usr/bin/program'), 'bytes', { mode: 0o4755 })
  await using files = createLayerFiles()
  const store = memoryStore()
  await using lease = await store.leases.acquire()
  const stored = await storeTree({
    store,
    lease,
    entries: files.entries(from, { plain: true }),
    read: (path) => files.read(from, path),
  })
  expect(stored).toMatchObject({ entries: 3, sizeBytes: 5 })
  await files.write(to, { ...layerSource(store, stored.tree), diskBytes: 1_000_000 })
  expect(await all(files.entries(to, { plain: true }))).toEqual(await all(files.entries(from, { plain: true })))
  await expect(
    storeTree({ store, lease, entries: files.entries(from), read: (path) => files.read(from, path), maxFilesBytes: 4 }),
  ).rejects.toMatchObject({ code: 'unsupported' })
})
