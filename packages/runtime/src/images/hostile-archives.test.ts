import { execFile } from 'node:child_process'
import { mkdir, readdir, readFile, readlink, stat, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { beforeEach, describe, expect, it } from 'vitest'
import { craftLayout } from './testing/craft-layout.ts'
import { type CraftedEntry, craftTar } from './testing/craft-tar.ts'
import { needs, openTestStore } from './testing/test-store.ts'

beforeEach((context) => needs(context, 'umoci'))

const GOOD: CraftedEntry = { name: 'good', body: 'good' }
const gnuLongName = (name: string): CraftedEntry[] => [
  { name: '././@LongLink', flag: 'L', body: `${name}\0` },
  { name: 'short', body: 'x' },
]

describe('archives that reach out of their root are refused', () => {
  const cases: [string, CraftedEntry[], RegExp][] = [
    ['a name that begins with ..', [{ name: '../canary', body: 'x' }], /leads out of the root/],
    ['a name with .. inside', [{ name: 'a/../../canary', body: 'x' }], /leads out of the root/],
    ['a name that is ..', [{ name: '..', flag: '5' }], /leads out of the root/],
    ['an absolute name', [{ name: '/tmp/canary', body: 'x' }], /is absolute/],
    ['.. in the prefix field', [{ name: 'canary', prefix: '..', body: 'x' }], /leads out of the root/],
    ['.. in a GNU long name', gnuLongName('../canary'), /leads out of the root/],
    ['.. in a pax path', [{ name: 'short', pax: { path: '../canary' }, body: 'x' }], /leads out of the root/],
    ['a hard link out of the root', [{ name: 'link', flag: '1', link: '../../canary' }], /leads out of the root/],
    ['an absolute hard link', [{ name: 'link', flag: '1', link: '/etc/passwd' }], /is absolute/],
    [
      'a pax link target out of the root',
      [{ name: 'link', flag: '1', link: 'good', pax: { linkpath: '../../canary' } }],
      /leads out of the root/,
    ],
    [
      'a file through a symbolic link',
      [
        { name: 'out', flag: '2', link: '../../../..' },
        { name: 'out/canary', body: 'x' },
      ],
      /goes through a symbolic link/,
    ],
    [
      'a hard link through a symbolic link',
      [
        { name: 'out', flag: '2', link: '/' },
        { name: 'mine', flag: '1', link: 'out/etc/passwd' },
      ],
      /goes through a symbolic link/,
    ],
    ['a whiteout of the parent', [{ name: 'a/.wh...', body: '' }], /whiteout of no name/],
    [
      "the host's overlay attributes",
      [{ name: 'd', flag: '5', pax: { 'SCHILY.xattr.trusted.overlay.redirect': '/etc' } }],
      /which is the host's to set/,
    ],
  ]
  for (const [what, entries, detail] of cases) {
    it(what, async () => {
      await using test = await openTestStore()
      await test.expectTarRefused(craftTar([GOOD, ...entries]), detail)
    })
  }

  it('in a layer of an OCI layout just the same', async () => {
    await using test = await openTestStore()
    const layout = await craftLayout(test.path('layout'))
    const image = await layout.addImage({ layers: [craftTar([GOOD]), craftTar([{ name: '../canary', body: 'x' }])] })
    await layout.writeIndex([image])
    await test.expectRefused({ kind: 'ociLayout', path: test.path('layout') }, /leads out of the root/)
  })
})

describe('archives that are not what they say are refused', () => {
  const whole = craftTar([GOOD, { name: 'big', body: 'b'.repeat(5000) }])
  const cases: [string, Buffer, RegExp][] = [
    ['random bytes', Buffer.alloc(2048, 0x5a), /not a tar archive/],
    ['an empty file', Buffer.alloc(0), /cut short/],
    ['an archive of nothing', craftTar([]), /holds no file/],
    ['one cut in a body', whole.subarray(0, 3000), /cut short in "big"/],
    ['one cut between entries', whole.subarray(0, 1024), /no end marker/],
    ['one cut in a gzip stream', gzipSync(whole).subarray(0, 60), /gzip stream is damaged or cut short/],
    ['a size larger than the archive', craftTar([{ name: 'lie', claimedBytes: 2 ** 32 }]), /cut short in "lie"/],
    ['a negative size', craftTar([{ name: 'n', rawSize: Buffer.alloc(12, 0xff) }]), /size out of range/],
    ['a size that is no number', craftTar([{ name: 'n', rawSize: Buffer.from('not a number') }]), /not a number/],
    ['a sparse file', craftTar([{ ...GOOD, pax: { 'GNU.sparse.realsize': '99999999999' } }]), /sparse/],
    ['an unknown type', craftTar([{ name: 'v', flag: 'V' }]), /unknown type/],
    ['a malformed extended header', craftTar([{ name: 'x', flag: 'x', body: '9999 path=y\n' }, GOOD]), /malformed/],
    ['an extended header without end', craftTar([{ name: 'x', flag: 'x', claimedBytes: 2 ** 30 }]), /past 1 MiB/],
    ['a name past PATH_MAX', craftTar(gnuLongName(`${'a/'.repeat(2100)}a`)), /past 4095 bytes/],
    ['a part of a name past NAME_MAX', craftTar(gnuLongName('a'.repeat(300))), /past 255 bytes/],
  ]
  for (const [what, data, detail] of cases) {
    it(what, async () => {
      await using test = await openTestStore()
      await test.expectTarRefused(data, detail)
    })
  }

  it('a path that is missing, a directory, or a FIFO', async () => {
    await using test = await openTestStore()
    await mkdir(test.path('directory'))
    await promisify(execFile)('mkfifo', [test.path('fifo')])
    await test.expectRefused({ kind: 'rootfsTar', path: test.path('fifo') }, /not a regular file/)
    await test.expectRefused({ kind: 'rootfsTar', path: test.path('missing') }, /cannot be opened \(ENOENT\)/)
    await test.expectRefused({ kind: 'rootfsTar', path: test.path('directory') }, /not a regular file/)
    await test.expectRefused({ kind: 'rootfsDirectory', path: test.path('canary') }, /not a directory/)
  })
})

describe('bombs are refused before they fill the disk', () => {
  it('bytes, compressed a thousandfold', async () => {
    await using test = await openTestStore({ maxImageBytes: 1_000_000 })
    const bomb = gzipSync(craftTar([{ name: 'zeros', body: Buffer.alloc(64_000_000) }]))
    expect(bomb.length).toBeLessThan(100_000)
    await test.expectTarRefused(bomb, /limit of 1000000 bytes/)
  })

  it('one layer, listed many times', async () => {
    await using test = await openTestStore({ maxImageBytes: 1_000_000 })
    const layout = await craftLayout(test.path('layout'))
    const layer = craftTar([{ name: 'zeros', body: Buffer.alloc(50_000) }])
    await layout.writeIndex([await layout.addImage({ layers: Array(30).fill(layer) })])
    await test.expectRefused({ kind: 'ociLayout', path: test.path('layout') }, /limit of 1000000 bytes/)
  })

  it('names', async () => {
    await using test = await openTestStore({ maxImageEntries: 100 })
    const entries = Array.from({ length: 101 }, (_, i) => ({ name: `directory-${i}`, flag: '5' }))
    await test.expectTarRefused(craftTar(entries), /more than 100 entries/)
  })
})

describe('what looks dangerous but is of use is made harmless', () => {
  it('leaves device nodes out, and keeps FIFOs, set-user-id bits and owners', async (context) => {
    if (process.getuid?.() !== 0) context.skip('owners need root')
    await using test = await openTestStore()
    const image = await test.importTar(
      craftTar([
        { name: 'dev/', flag: '5', mode: 0o755 },
        { name: 'dev/mem', flag: '3', mode: 0o666 },
        { name: 'dev/sda', flag: '4', mode: 0o666 },
        { name: 'pipe', flag: '6' },
        { name: 'su', body: '#!', mode: 0o4755 },
        { name: 'mine', body: '', uid: 1000 },
      ]),
    )
    expect((await readdir(image.rootfs)).sort()).toEqual(['dev', 'mine', 'pipe', 'su'])
    expect(await readdir(join(image.rootfs, 'dev'))).toEqual([])
    expect((await stat(join(image.rootfs, 'pipe'))).isFIFO()).toBe(true)
    expect((await stat(join(image.rootfs, 'su'))).mode & 0o7777).toBe(0o4755)
    expect((await stat(join(image.rootfs, 'mine'))).uid).toBe(1000)
    // Other users of the host cannot get at the set-user-id program.
    expect((await stat(test.options.directory)).mode & 0o777).toBe(0o700)
  })

  it('keeps symbolic links that point anywhere, and writes through none from another layer', async () => {
    await using test = await openTestStore()
    const layout = await craftLayout(test.path('layout'))
    const base = test.path('')
    const layers = [
      craftTar([
        { name: 'absolute', flag: '2', link: base },
        { name: 'climbing', flag: '2', link: `../../../../../../../../..${base}` },
        { name: 'passwd', flag: '2', link: '/etc/passwd' },
      ]),
      craftTar([
        { name: 'absolute/canary', body: 'overwritten' },
        { name: 'climbing/canary', body: 'overwritten' },
        { name: 'passwd', body: 'overwritten' },
      ]),
    ]
    await layout.writeIndex([await layout.addImage({ layers })])
    const image = await test.store.import({ kind: 'ociLayout', path: test.path('layout') })
    expect(await readFile(test.path('canary'), 'utf8')).toBe('unharmed\n')
    expect(await readFile('/etc/passwd', 'utf8')).not.toBe('overwritten')
    expect(await readFile(join(image.rootfs, 'passwd'), 'utf8')).toBe('overwritten')
  })

  it('keeps a symbolic link whose target does not exist here', async () => {
    await using test = await openTestStore()
    const image = await test.importTar(craftTar([{ name: 'sh', flag: '2', link: '/bin/busybox' }]))
    expect(await readlink(join(image.rootfs, 'sh'))).toBe('/bin/busybox')
  })

  it('does not follow a symbolic link in a layout, nor show what it leads to', async () => {
    await using test = await openTestStore()
    await mkdir(test.path('layout'))
    await symlink('/etc/passwd', test.path('layout/index.json'))
    await test.expectRefused({ kind: 'ociLayout', path: test.path('layout') }, /cannot be opened \(ELOOP\)/)
  })
})
