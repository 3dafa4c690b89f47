import { mkdir, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type BlobStore, fsStore, readContent } from '@bramble/blobs'
import { killAtEveryStep } from '@bramble/blobs/testing'
import { type BlobHash, BrambleError, type SnapshotManifest } from '@bramble/protocol'
import { layerDirectory } from '@bramble/runtime/testing'
import { expect, test } from 'vitest'
import { readManifest } from './manifest.ts'
import { readTree } from './read-tree.ts'
import { references } from './references.ts'
import { all } from './testing/subject.ts'

interface Fact {
  readonly snapshot?: BlobHash
  readonly seal?: string
  readonly done?: boolean
}

const CHILD = join(import.meta.dirname, 'crash-child.ts')

const manifestAt = async (store: BlobStore, hash: BlobHash): Promise<SnapshotManifest | undefined> => {
  try {
    return await readManifest(store, hash)
  } catch (error) {
    if (error instanceof BrambleError && error.code === 'import_refused') return undefined
    throw error
  }
}

/** Every manifest that is there has all that it needs; gives their hashes. */
const wholeSnapshots = async (store: BlobStore): Promise<BlobHash[]> => {
  const whole: BlobHash[] = []
  for (const { hash } of await all(store.list())) {
    const manifest = await manifestAt(store, hash)
    if (!manifest) continue
    for (const needed of await all(references(store, hash))) expect(await store.stat(needed)).toBeDefined()
    for (const entry of await all(readTree(store, manifest.filesystem.tree)))
      if (entry.type === 'file') await all(readContent(store, entry.content))
    whole.push(hash)
  }
  return whole
}

const filesOf = async (directory: string): Promise<Record<string, string>> => {
  const names = (await readdir(directory)).sort()
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, await readFile(join(directory, name), 'latin1')] as const)),
  )
}

test('killed at every step, no half snapshot is in the store, and no half seal beside it', async (context) => {
  const root = await layerDirectory(context)
  const last = await killAtEveryStep<Fact>(CHILD, async (step) => {
    const directory = join(root, String(step))
    await mkdir(directory)
    return {
      words: [directory],
      inspect: async (facts) => {
        await using store = await fsStore({ directory: join(directory, 'store') })
        const whole = await wholeSnapshots(store)
        const seals = await readdir(join(directory, 'seals')).catch(() => [])
        for (const { snapshot, seal } of facts) {
          if (snapshot) expect(whole).toContain(snapshot)
          if (seal) expect(seals).toContain(seal)
        }
        for (const name of seals.filter((one) => one.endsWith('-back'))) {
          const [back, taken] = [name, name.replace('-back', '')].map((one) => join(directory, 'seals', one, 'upper'))
          expect(await filesOf(back ?? '')).toEqual(await filesOf(taken ?? ''))
        }
      },
    }
  })
  expect(last).toBeGreaterThan(40)
}, 240_000)
