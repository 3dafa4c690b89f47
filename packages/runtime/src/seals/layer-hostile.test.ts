import { createHash } from 'node:crypto'
import { symlink as link, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { createLayerFiles } from './layer-files.ts'
import { encodeEnd, encodeRecord } from './layer-records.ts'
import { startLayersProgram } from './layers-program.ts'
import type { LayerEntry } from './seals.ts'
import {
  all,
  attributes,
  file,
  folder,
  layerDirectory,
  type Made,
  sourceOf,
  symlink,
} from './testing/layer-directory.ts'

const deleted = (path: string): Made => ({ type: 'deleted', path })
const hardLink = (path: string, target: string): Made => ({ type: 'link', path, target })

/** What must be refused, each with what it would do. */
const HOSTILE: Readonly<Record<string, readonly Made[]>> = {
  'leaves by its parent': [file('../escaped', 'x')],
  'leaves in the middle': [folder('a'), file('a/../../escaped', 'x')],
  'is absolute': [file('/tmp/escaped', 'x')],
  'has an empty name': [folder('a'), file('a//b')],
  'is the root': [folder('.')],
  'has no path': [file('')],
  'has a name that is too long': [file('n'.repeat(256))],
  'has a NUL': [file('a\0b')],
  'is of other characters than bytes': [file('\u{1f33f}')],
  'goes through a link of the layer': [symlink('a', '/'), file('a/escaped', 'x')],
  'goes through a link beside it': [folder('d'), symlink('d/l', '..'), file('d/l/escaped', 'x')],
  'is in a file': [file('a', 'x'), file('a/b', 'x')],
  'is in what was deleted': [deleted('a'), file('a/b', 'x')],
  'is in no directory': [file('a/b', 'x')],
  'comes twice': [file('a', 'x'), file('a', 'y')],
  'comes as another kind': [file('a', 'x'), folder('a')],
  'comes too late': [file('b', 'x'), file('a', 'x')],
  'links to what is outside': [hardLink('a', '../secret')],
  'links to an absolute path': [hardLink('a', '/etc/passwd')],
  'links through a link': [symlink('a', '..'), hardLink('b', 'a/secret')],
  'links to a link': [symlink('a', '../secret'), hardLink('b', 'a')],
  'links to a directory': [folder('a'), hardLink('b', 'a')],
  'links to nothing': [hardLink('b', 'a')],
  'links to itself': [hardLink('a', 'a')],
  'links to what was deleted': [deleted('a'), hardLink('b', 'a')],
  'has an attribute of overlayfs': [{ ...file('a'), xattrs: { 'trusted.overlay.opaque': Buffer.from('y') } } as Made],
  'has an attribute of the host': [{ ...file('a'), xattrs: { 'security.selinux': Buffer.from('y') } } as Made],
  'has a mode of another kind': [{ ...file('a'), mode: 0o60_777 } as Made],
  'has no owner': [{ ...file('a'), uid: 4_294_967_295 } as Made],
  'has a negative mode': [{ ...file('a'), mode: -1 } as Made],
  'has no time': [{ ...file('a'), modifiedNs: 1n << 100n } as Made],
  'is a link to nothing': [symlink('a', '')],
  'is a link to a NUL': [symlink('a', 'x\0y')],
  'has more bytes than it says': [{ ...file('a', 'xyz'), sizeBytes: 2 } as Made],
  'has fewer bytes than it says': [{ ...file('a', 'xyz'), sizeBytes: 4 } as Made],
}

for (const [what, entries] of Object.entries(HOSTILE))
  test(`an entry that ${what} is refused`, async (context) => {
    const base = await layerDirectory(context)
    await using files = createLayerFiles()
    const target = join(base, 'target')
    await mkdir(target)
    await writeFile(join(base, 'secret'), 'of the host')
    await expect(files.write(target, sourceOf(entries))).rejects.toMatchObject({ code: 'import_refused' })
    expect((await readdir(base)).sort()).toEqual(['secret', 'target'])
  })

test('more bytes than there may be are not written', async (context) => {
  const base = await layerDirectory(context)
  await using files = createLayerFiles()
  const bytes = Buffer.alloc(1024 * 1024, 1)
  const large = { ...file('large'), sizeBytes: bytes.length, bytes } as Made
  await expect(files.write(base, sourceOf([large], 512 * 1024))).rejects.toMatchObject({ code: 'store_full' })
  const many = Array.from({ length: 1000 }, (_, index) => folder(`d${1000 + index}`))
  await expect(files.write(base, sourceOf(many, 100_000))).rejects.toMatchObject({ code: 'store_full' })
})

test('links that a sandbox left in the directory itself lead nowhere', async (context) => {
  const base = await layerDirectory(context)
  await using files = createLayerFiles()
  const target = join(base, 'target')
  await mkdir(target)
  await link('..', join(target, 'out'))
  const refused = { code: 'import_refused' }
  await expect(files.write(target, sourceOf([file('out/escaped', 'x')]))).rejects.toMatchObject(refused)
  await expect(files.write(target, sourceOf([file('out', 'x')]))).rejects.toMatchObject(refused)
  expect(await readdir(base)).toEqual(['target'])
})

/** A stream of pseudo-random numbers, the same in every run. */
const randomOf = (seed: number): ((below: number) => number) => {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

const streamOf = (entries: readonly Made[]): Buffer =>
  Buffer.concat([
    ...entries.flatMap(({ bytes, ...entry }) => [encodeRecord(entry as LayerEntry), bytes ?? Buffer.alloc(0)]),
    encodeEnd(entries.length),
  ])

const damaged = (stream: Buffer, random: (below: number) => number): Buffer => {
  const copy = Buffer.from(stream)
  const values = [0, 1, 0x7f, 0x80, 0xff, 0x2f, 0x2e]
  for (let times = 1 + random(6); times > 0; times--)
    copy[random(copy.length)] = values[random(values.length)] ?? random(256)
  return random(8) === 0 ? copy.subarray(0, random(copy.length)) : copy
}

/** What the program says of a stream, and the signal that ended it. */
const feed = async (directory: string, stream: Buffer): Promise<string> => {
  const program = startLayersProgram(['write', directory, '1000', '1000000'])
  const answer = all(program.stdout as AsyncIterable<Buffer>)
  program.stdin.end(stream)
  await program.ended
  return Buffer.concat(await answer).toString('latin1')
}

test('damaged streams are refused or written, and never more than that', async (context) => {
  const base = await layerDirectory(context)
  const outside = createHash('sha256').update('untouched').digest('hex')
  await writeFile(join(base, 'outside'), outside)
  const random = randomOf(4)
  const stream = streamOf([
    folder('a'),
    file('a/one', 'first'),
    { ...file('a/two', 'second'), xattrs: { 'user.x': Buffer.from('value') } } as Made,
    folder('b'),
    symlink('b/link', '../a/one'),
    hardLink('b/same', 'a/one'),
    deleted('c'),
    { type: 'fifo', path: 'd', ...attributes },
  ])
  for (let run = 0; run < 300; run++) {
    const target = join(base, `t${run}`)
    await mkdir(target)
    expect(await feed(target, damaged(stream, random)), `run ${run}`).toMatch(/^(ok|refused|full|failed) .*\n$/)
  }
  expect((await readdir(base)).filter((name) => !/^t\d+$/.test(name))).toEqual(['outside'])
  expect(await readFile(join(base, 'outside'), 'utf8')).toBe(outside)
})

test('requests that are no requests end the reader, and nothing else', async (context) => {
  const base = await layerDirectory(context)
  const random = randomOf(5)
  for (let run = 0; run < 50; run++) {
    const program = startLayersProgram(['read', base])
    program.stdout.resume()
    program.stdin.end(Buffer.from(Array.from({ length: 200 }, () => random(256))))
    expect(await program.ended).toMatch(/^$|not understood/)
  }
})
