import { describe, expect, test } from 'vitest'
import { readTar } from '../images/read-tar.ts'
import type { LayerEntry } from '../seals/seals.ts'
import { collectBytes, directoryEntry, fifoEntry, fileEntry, linkEntry, symlinkEntry } from '../testing/seal-states.ts'
import { decodeLayerEntry, encodeLayer, type LayerItem } from './layer-tar.ts'
import { readSavedLayers } from './saved-layers.ts'

async function* each<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items
}

const archiveOf = (entries: readonly LayerEntry[], contents: Readonly<Record<string, Buffer>> = {}): Promise<Buffer> =>
  collectBytes(
    encodeLayer(each(entries), (path) => {
      const entry = entries.find((one) => one.path === path)
      return each([contents[path] ?? Buffer.alloc(entry?.type === 'file' ? entry.sizeBytes : 0, 'x')])
    }),
  )

describe('layers as archives', () => {
  test('say again what was said', async () => {
    const long = Array.from({ length: 30 }, (_, n) => `directory${n}`).join('/')
    const entries = [
      directoryEntry('a', {
        mode: 0o1777,
        uid: 4_000_000_000,
        gid: 70_000,
        xattrs: { 'user.x': new Uint8Array([0, 10, 61, 255]) },
      }),
      fileEntry('a/before', 513, { mode: 0o6755, modifiedNs: -1_500_000_001n }),
      fileEntry('a/late', 0, { modifiedNs: 20_000_000_000_999_999_999n }),
      linkEntry('a/name', 'a/before'),
      symlinkEntry('a/symlink', `../${long}/é`),
      fifoEntry('fifo'),
      { ...fileEntry('z', 0), path: '\xff\xfe' } as LayerEntry,
    ]
    const items: (LayerItem | undefined)[] = []
    for await (const entry of readTar(each([await archiveOf(entries)]))) items.push(decodeLayerEntry(entry, 'v'))
    expect(items).toEqual(entries.map((entry) => (entry.type === 'file' ? { ...entry, version: 'v' } : entry)))
  })

  test('cannot have names that mean something else there', async () => {
    for (const entry of [fileEntry('a/.wh.b', 1), { path: '.wh..wh..opq', type: 'deleted' } as LayerEntry])
      await expect(archiveOf([entry])).rejects.toMatchObject({ code: 'import_refused' })
  })

  test('of a saved image are one upon another, without those below', async () => {
    const deleted = (path: string): LayerEntry => ({ path, type: 'deleted' })
    const base = [
      directoryEntry('image'),
      fileEntry('image/old', 1),
      directoryEntry('image/replaced'),
      fileEntry('image/replaced/file', 1),
    ]
    const first = [
      directoryEntry('image'),
      deleted('image/old'),
      directoryEntry('own'),
      fileEntry('own/a', 3),
      linkEntry('own/b', 'own/a'),
      fileEntry('own/gone', 1),
      directoryEntry('own/tree'),
      fileEntry('own/tree/leaf', 1),
      fileEntry('proc', 1),
    ]
    const second = [
      directoryEntry('image'),
      directoryEntry('image/replaced', { opaque: true }),
      fileEntry('image/replaced/new', 1),
      directoryEntry('own', { opaque: false, mode: 0o700 }),
      deleted('own/a'),
      deleted('own/gone'),
      fileEntry('own/tree', 2),
    ]
    const layers = await Promise.all([base, first, second].map((entries) => archiveOf(entries)))
    const documents = {
      'config.json': { rootfs: { diff_ids: ['0', '1', '2'] } },
      'manifest.json': [{ Config: 'config.json', Layers: ['0/layer.tar', '1/layer.tar', '2/layer.tar'] }],
    }
    const files: Record<string, Buffer> = Object.fromEntries([
      ...layers.map((layer, index) => [`${index}/layer.tar`, layer]),
      ...Object.entries(documents).map(([name, document]) => [name, Buffer.from(JSON.stringify(document))]),
    ])
    const saved = await archiveOf(
      Object.entries(files).map(([name, data]) => fileEntry(name, data.length)),
      files,
    )
    const read = await readSavedLayers(each([saved]), 1)
    expect(read.map((entry) => `${entry.type} ${entry.path}`)).toEqual([
      'directory image',
      'deleted image/old',
      'directory image/replaced',
      'file image/replaced/new',
      'directory own',
      'file own/b',
      'file own/tree',
    ])
    expect(read[2]).toMatchObject({ opaque: true })
    expect(read[4]).toMatchObject({ mode: 0o700, opaque: false })
    expect(read[5]).toMatchObject({ sizeBytes: 3, version: '1' })
    expect(read[6]).toMatchObject({ sizeBytes: 2, version: '2' })
    const missing = await archiveOf([fileEntry('manifest.json', files['manifest.json']?.length ?? 0)], files)
    await expect(readSavedLayers(each([missing]), 1)).rejects.toMatchObject({ code: 'store_unavailable' })
  })
})
