import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { LayerEntry } from '@bramble/runtime'
import { expect, onTestFinished, test } from 'vitest'
import { explicitDeletions } from './explicit-deletions.ts'
import { listingOf } from './image-listing.ts'

const attributes = { mode: 0o755, uid: 0, gid: 0, modifiedNs: 0n }
const folder = (path: string, opaque = false): LayerEntry => ({ type: 'directory', path, ...attributes, opaque })
const file = (path: string): LayerEntry => ({ type: 'file', path, ...attributes, sizeBytes: 0 })

const imageOf = async (...paths: string[]): Promise<string> => {
  const root = await mkdtemp(join(tmpdir(), 'bramble-image-'))
  onTestFinished(() => rm(root, { recursive: true, force: true }))
  for (const path of paths) {
    if (path.endsWith('/')) await mkdir(join(root, path), { recursive: true })
    else await writeFile(join(root, path), '')
  }
  return root
}

const told = async (rootfs: string, entries: readonly LayerEntry[]): Promise<string[]> => {
  const source = async function* () {
    yield* entries
  }
  const lines: string[] = []
  for await (const entry of explicitDeletions(source(), listingOf(rootfs))) {
    expect('opaque' in entry && entry.opaque).toBe(false)
    lines.push(`${entry.type} ${entry.path}`)
  }
  return lines
}

test('what an opaque directory hides of the image is told, name by name', async () => {
  const rootfs = await imageOf('d/', 'd/a', 'd/m', 'd/sub/', 'd/sub/x', 'd/z', 'other/', 'other/y')
  expect(await told(rootfs, [folder('d', true), file('d/k'), file('d/m'), folder('other')])).toEqual([
    'directory d',
    'deleted d/a',
    'file d/k',
    'file d/m',
    'deleted d/sub',
    'deleted d/z',
    'directory other',
  ])
})

test('a directory made anew below an opaque one hides as much', async () => {
  const rootfs = await imageOf('d/', 'd/sub/', 'd/sub/deep/', 'd/sub/deep/x', 'd/sub/y', 'd/sub-a')
  expect(await told(rootfs, [folder('d', true), folder('d/sub'), folder('d/sub/deep')])).toEqual([
    'directory d',
    'directory d/sub',
    'deleted d/sub-a',
    'directory d/sub/deep',
    'deleted d/sub/deep/x',
    'deleted d/sub/y',
  ])
})

test('only directories of the image itself are looked into, and no link of it is followed', async () => {
  const rootfs = await imageOf('real/', 'real/x', 'file')
  await symlink('real', join(rootfs, 'alias'))
  await symlink('/', join(rootfs, 'host'))
  const entries = [folder('alias', true), folder('file', true), folder('host', true), folder('host/etc', true)]
  expect(await told(rootfs, [...entries, folder('new', true)])).toEqual(
    [...entries, folder('new')].map(({ path }) => `directory ${path}`),
  )
})

test('names of any bytes stay in order', async () => {
  const rootfs = await imageOf('d/')
  const names = Array.from({ length: 200 }, (_, index) =>
    Buffer.from([0x21 + ((index * 37) % 90), 0x80 + (index % 100)]),
  )
  const usable = names.filter((name) => !name.includes(0x2f))
  for (const name of usable) await writeFile(Buffer.concat([Buffer.from(`${rootfs}/d/`), name]), '')
  await chmod(join(rootfs, 'd'), 0o755)
  const lines = await told(rootfs, [folder('d', true)])
  const expected = [...new Set(usable.map((name) => `deleted d/${name.toString('latin1')}`))]
  expect(lines.slice(1)).toEqual(expected.sort((left, right) => (left < right ? -1 : 1)))
})
