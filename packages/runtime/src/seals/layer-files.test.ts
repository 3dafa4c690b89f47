import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { lstat, mkdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, onTestFinished, test } from 'vitest'
import { createLayerFiles, type LayerFiles } from './layer-files.ts'
import type { LayerEntry } from './seals.ts'
import {
  all,
  attributes,
  FILE_SYSTEMS,
  file,
  folder,
  layerDirectory,
  sourceOf,
  symlink,
  withoutVersion,
} from './testing/layer-directory.ts'

const run = promisify(execFile)

const open = (): LayerFiles => {
  const files = createLayerFiles()
  onTestFinished(() => files.close())
  return files
}

const bytesOf = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'latin1'))

const into = async (base: string, name: string): Promise<string> => {
  const directory = join(base, name)
  await mkdir(directory)
  return directory
}

const pathsOf = async (files: LayerFiles, directory: string): Promise<string[]> =>
  (await all(files.entries(directory))).map(({ path }) => path)

for (const system of FILE_SYSTEMS)
  test(`every kind of entry, with all its attributes, comes back from ${system}`, async (context) => {
    const base = await layerDirectory(context, system)
    const files = open()
    const made = [
      folder('a'),
      file('a.txt', 'between a and what is in it'),
      { ...folder('a/b', true), xattrs: { 'user.note': bytesOf('of a directory') } },
      { ...file('a/b/program', '#!/bin/sh\n'), mode: 0o6755, uid: 1000, gid: 4_294_967_294 },
      { type: 'deleted', path: 'a/gone' },
      file('a/\xff\xfe not UTF-8 \n', 'x'),
      { type: 'fifo', path: 'b', ...attributes, mode: 0o620 },
      symlink('c', '../../etc/passwd'),
      {
        ...file('d', 'attributes'),
        xattrs: { 'user.empty': bytesOf(''), 'user.binary': bytesOf('\0\xff\n') },
      },
      { ...file('e', 'early'), modifiedNs: -1_500_000_000n },
      { type: 'link', path: 'f', target: 'a/b/program' },
      { ...folder('g'), mode: 0o1777, uid: 7, gid: 8 },
    ] as const
    const target = await into(base, 'made')
    const supported = system === 'tmpfs' ? made.map(withoutUserXattrs) : made
    const written = await files.write(target, sourceOf(supported))
    expect(written.entries).toBe(made.length)
    const found = (await all(files.entries(target))).map(withoutVersion)
    expect(found).toEqual(supported.map(({ bytes: _, ...entry }: { bytes?: unknown }) => entry))
    for (const entry of supported)
      if (entry.type === 'file')
        expect(Buffer.concat(await all(files.read(target, entry.path)))).toEqual('bytes' in entry ? entry.bytes : '')
    const copy = await into(base, 'copy')
    await files.write(copy, {
      entries: files.entries(target),
      read: (path) => files.read(target, path),
      diskBytes: 1e9,
    })
    expect((await all(files.entries(copy))).map(withoutVersion)).toEqual(found)
  })

/** tmpfs has attributes of users since Linux 6.6. */
const withoutUserXattrs = <T extends object>(entry: T): T => {
  const { xattrs: _, ...rest } = { xattrs: undefined, ...entry }
  return rest as unknown as T
}

const overlayDirectories = async (base: string) =>
  [await into(base, 'lower'), await into(base, 'upper'), await into(base, 'work'), await into(base, 'merged')] as const

test('capabilities of programs are kept', async (context) => {
  const base = await layerDirectory(context)
  const files = open()
  // VFS_CAP_REVISION_2, effective, CAP_NET_BIND_SERVICE (linux/capability.h).
  const capability = new Uint8Array(Buffer.from('0100000200040000000000000000000000000000', 'hex'))
  const made = { ...file('ping', 'program'), mode: 0o755, xattrs: { 'security.capability': capability } }
  await files.write(base, sourceOf([made]))
  expect(await all(files.entries(base))).toMatchObject([{ xattrs: { 'security.capability': capability } }])
})

test('a layer that overlayfs wrote is told: what was deleted, what was replaced', async (context) => {
  const base = await layerDirectory(context)
  const files = open()
  const [lower, upper, work, merged] = await overlayDirectories(base)
  await run('sh', ['-c', 'mkdir -p old/sub kept; touch old/x old/sub/y kept/z kept/removed'], { cwd: lower })
  await run('mount', ['-t', 'overlay', 'overlay', '-o', `lowerdir=${lower},upperdir=${upper},workdir=${work}`, merged])
  onTestFinished(() => run('umount', ['-l', merged]).then(() => {}))
  await run('sh', ['-c', 'rm -r old kept/removed; mkdir old; echo new > old/n; mknod kept/socket p'], { cwd: merged })
  const entries = await all(files.entries(upper))
  expect(entries.map(({ path, type, ...rest }) => [path, type, 'opaque' in rest ? rest.opaque : null])).toEqual([
    ['kept', 'directory', false],
    ['kept/removed', 'deleted', null],
    ['kept/socket', 'fifo', null],
    ['old', 'directory', true],
    ['old/n', 'file', null],
  ])
  expect(entries.every((entry) => !('xattrs' in entry))).toBe(true)
})

test('what only half of is in the layer is refused, not taken for the whole', async (context) => {
  const base = await layerDirectory(context)
  const files = open()
  const [lower, upper, work, merged] = await overlayDirectories(base)
  await run('sh', ['-c', 'echo bytes > file; mkdir folder'], { cwd: lower })
  const options = `lowerdir=${lower},upperdir=${upper},workdir=${work},metacopy=on,redirect_dir=on`
  await run('mount', ['-t', 'overlay', 'overlay', '-o', options, merged])
  onTestFinished(() => run('umount', ['-l', merged]).then(() => {}))
  await run('chmod', ['600', 'file'], { cwd: merged })
  await expect(all(files.entries(upper))).rejects.toMatchObject({ code: 'unsupported' })
  await run('sh', ['-c', 'rm file; mv folder renamed'], { cwd: merged })
  await expect(all(files.entries(upper))).rejects.toMatchObject({ code: 'unsupported' })
})

test('plain directories have neither whiteouts nor sockets', async (context) => {
  const base = await layerDirectory(context)
  const files = open()
  await files.write(base, sourceOf([{ type: 'deleted', path: 'gone' }, file('here', 'x'), folder('opaque', true)]))
  const entries = await all(files.entries(base, { plain: true }))
  expect(entries.map(({ path, ...rest }) => [path, 'opaque' in rest && rest.opaque])).toEqual([
    ['here', false],
    ['opaque', false],
  ])
})

test('paths come in the order of their bytes, whatever they are', async (context) => {
  const base = await layerDirectory(context)
  const files = open()
  const names = Array.from({ length: 400 }, (_, index) => `${'a.-0Z~/'[index % 6]}${index % 37}`)
  const script = 'for name; do mkdir -p "$name" "$name.d/$name" "$name/x"; touch "$name/x-" "$name/x/y" "$name "; done'
  await run('sh', ['-c', script, 'sh', ...new Set(names)], { cwd: base })
  const paths = await pathsOf(files, base)
  expect(paths.length).toBeGreaterThan(500)
  expect(paths).toEqual([...paths].sort((left, right) => (left < right ? -1 : 1)))
})

test('a tree is as deep as it likes, up to the longest path that a tree holds', async (context) => {
  const base = await layerDirectory(context)
  const files = open()
  const [deep, deeper] = [await into(base, 'deep'), await into(base, 'deeper')]
  const made = Array.from({ length: 3000 }, (_, depth) =>
    folder(
      Array(depth + 1)
        .fill('d')
        .join('/'),
    ),
  )
  const bottom = `${made.at(-1)?.path}/file`
  await files.write(deep, sourceOf([...made, file(bottom, 'at the bottom')]))
  expect(await pathsOf(files, deep)).toEqual([...made.map(({ path }) => path), bottom])
  expect(Buffer.concat(await all(files.read(deep, bottom))).toString()).toBe('at the bottom')
  await run('perl', ['-e', 'for (1..60) { mkdir "n" x 200; chdir "n" x 200 }'], { cwd: deeper })
  await expect(all(files.entries(deeper))).rejects.toMatchObject({ code: 'unsupported' })
})

test('there are as many entries as asked for, and no more', async (context) => {
  const base = await layerDirectory(context)
  const files = open()
  await run('sh', ['-c', 'for i in 0 1 2 3 4 5 6 7 8 9; do echo $i > $i; done'], { cwd: base })
  expect(await all(files.entries(base, { maxEntries: 10 }))).toHaveLength(10)
  await expect(all(files.entries(base, { maxEntries: 9 }))).rejects.toMatchObject({ code: 'unsupported' })
})

test('no link is followed to what is read, and only regular files are', async (context) => {
  const base = await layerDirectory(context)
  const files = open()
  await mkdir(join(base, 'real'))
  await writeFile(join(base, 'real/file'), 'bytes')
  await run('sh', ['-c', 'ln -s real linked; ln -s real/file alias; ln -s / root; mkfifo fifo'], { cwd: base })
  for (const path of [
    'none',
    'real',
    'alias',
    'linked/file',
    'root/etc/passwd',
    '../etc/passwd',
    '/etc/passwd',
    'fifo',
    '',
  ])
    await expect(all(files.read(base, path)), path).rejects.toMatchObject({ code: 'file_not_found' })
  expect(Buffer.concat(await all(files.read(base, 'real/file'))).toString()).toBe('bytes')
})

test('large files are read whole, by several at once, and given up half way', async (context) => {
  const base = await layerDirectory(context)
  const files = open()
  const contents = [1, 128 * 1024, 128 * 1024 + 1, 5_000_001].map((size) => randomBytes(size))
  await Promise.all(contents.map((bytes, index) => writeFile(join(base, `f${index}`), bytes)))
  for await (const _ of files.read(base, 'f3')) break
  const read = await Promise.all(contents.map((_, index) => all(files.read(base, `f${index}`))))
  for (const [index, bytes] of contents.entries()) expect(bytes.equals(Buffer.concat(read[index] ?? []))).toBe(true)
  const { signal, abort } = withSignal()
  const reading = files.read(base, 'f3', { signal })[Symbol.asyncIterator]()
  await reading.next()
  abort()
  await expect(all({ [Symbol.asyncIterator]: () => reading })).rejects.toThrow('enough')
})

const withSignal = () => {
  const controller = new AbortController()
  return { signal: controller.signal, abort: () => controller.abort(new Error('enough')) }
}

test('an aborted walk, and an aborted write, end with the reason', async (context) => {
  const base = await layerDirectory(context)
  const files = open()
  await files.write(base, sourceOf(Array.from({ length: 2000 }, (_, index) => file(`f${10_000 + index}`, 'x'))))
  const walk = withSignal()
  const walking = async () => {
    for await (const _ of files.entries(base, walk)) walk.abort()
  }
  await expect(walking()).rejects.toThrow('enough')
  const write = withSignal()
  const endless = async function* (): AsyncGenerator<LayerEntry> {
    for (let index = 0; ; index++) {
      if (index === 1000) write.abort()
      yield folder(`d${100_000 + index}`)
    }
  }
  const source = { ...sourceOf([]), entries: endless() }
  await expect(files.write(await into(base, 'target'), source, write)).rejects.toThrow('enough')
})

test('holes stay holes', async (context) => {
  const base = await layerDirectory(context)
  const files = open()
  await run('sh', ['-c', 'truncate -s 64M sparse; echo end >> sparse'], { cwd: base })
  const copy = await into(base, 'copy')
  const entries = (await all(files.entries(base))).filter(({ path }) => path === 'sparse')
  const source = { entries, read: (path: string) => files.read(base, path), diskBytes: 1024 * 1024 }
  expect((await files.write(copy, source)).usedBytes).toBeLessThan(128 * 1024)
  const { size, blocks } = await stat(join(copy, 'sparse'))
  expect({ size, few: blocks < 1000 }).toEqual({ size: 64 * 1024 * 1024 + 4, few: true })
  expect((await readFile(join(copy, 'sparse'))).subarray(-4).toString()).toBe('end\n')
})

test('on btrfs, equal versions are equal bytes, whatever the clock says', async (context) => {
  const base = await layerDirectory(context, 'btrfs')
  const files = open()
  const layer = join(base, 'layer')
  const seal = (name: string) => run('btrfs', ['subvolume', 'snapshot', '-r', layer, join(base, name)])
  const versions = async (name: string) => {
    const entries = await all(files.entries(join(base, name, 'upper')))
    return new Map(entries.map((entry) => [entry.path, entry.type === 'file' ? entry.version : undefined]))
  }
  await run('btrfs', ['subvolume', 'create', layer])
  const upper = await into(layer, 'upper')
  await run('sh', ['-c', 'for name in same changed replaced; do echo one > $name; done'], { cwd: upper })
  const { mtime } = await lstat(join(upper, 'changed'))
  await seal('first')
  await run('sh', ['-c', 'echo two > changed; rm replaced; echo two > replaced'], { cwd: upper })
  await utimes(join(upper, 'changed'), mtime, mtime)
  await seal('second')
  const [first, second] = [await versions('first'), await versions('second')]
  expect([...first.values()].every((version) => typeof version === 'string')).toBe(true)
  expect([...first].filter(([path, version]) => second.get(path) === version).map(([path]) => path)).toEqual(['same'])
  // What is written to has changes that nobody can see yet.
  expect([...(await versions('layer')).values()]).toEqual([undefined, undefined, undefined])
  await rm(layer, { recursive: true, force: true })
})
