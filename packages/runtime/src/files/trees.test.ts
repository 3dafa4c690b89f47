import { execFile } from 'node:child_process'
import { createReadStream } from 'node:fs'
import { appendFile, mkdir, readdir, readFile, stat, truncate, writeFile } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { promisify } from 'node:util'
import { pack } from 'tar-stream'
import { describe, expect, it } from 'vitest'
import { type CraftedEntry, craftTar } from '../images/testing/craft-tar.ts'
import { bytesOf, isRoot, makeDeep, pieces, useFileArena } from './testing/file-arena.ts'

const invalid = { code: 'invalid_request' }
const refused = { code: 'file_refused' }
/** All that is to come back; of links the time too. */
const LISTING =
  "find . -mindepth 1 -printf '%P %y %m %U %G %s %T@ %n %l\\0' | grep -zv ' d ' | LC_ALL=C sort -z; find . -type d -printf '%P %m %T@\\0' | LC_ALL=C sort -z"

describe('trees', () => {
  const arena = useFileArena()

  const makeTree = async (name: string): Promise<void> => {
    const { at, sh } = arena()
    await mkdir(at(name))
    const long = 'l'.repeat(200)
    await sh(`cd ${name}; mkdir -p sub/empty ${long}/${long}; echo content > file; ln file sub/hard; ln -s ../file sub/soft
      mkfifo pipe; > none; echo x > ${long}/${long}/${long}; ln -s ${long}/${long}/${long} longlink; ln ${long}/${long}/${long} longhard
      chmod 4755 file; chmod 700 sub/empty; truncate -s 20M sparse; head -c 700000 /dev/urandom > random; printf 12 > "new
line"; head -c 512 /dev/urandom > block; touch -d @1500000000.123456789 file; touch -h -d @1400000000 sub/soft
      touch -d '1950-01-01T00:00:00.25Z' none; touch -d @9999999999 block; touch -d @1300000000 sub/empty sub`)
    await writeFile(Buffer.concat([Buffer.from(`${at(name)}/`), Buffer.from([0xff, 0x80, 0x01])]), 'bytes')
    if (isRoot) await sh(`cd ${name}; chown -h 4000000000:3000000 random longlink; chown 12:34 sub/empty`)
  }
  const listing = (name: string) => arena().sh(`cd ${name}; ${LISTING}`)

  it('come and go as they are', async () => {
    const { files, at, sh } = arena()
    await makeTree('tree')
    const archive = await bytesOf(files.readTree(at('tree')))
    const counts = await files.writeTree(at('made/copy'), pieces(archive))
    expect(await listing('made/copy')).toBe(await listing('tree'))
    await sh('diff -r --no-dereference -x pipe tree made/copy')
    expect(counts).toMatchObject({ files: 13, skipped: 0 })
    expect((await stat(at('made/copy/sparse'))).blocks).toBe(0)
    // Once more, over what is there.
    expect(await files.writeTree(at('made/copy'), pieces(archive))).toEqual(counts)
    await sh('touch -r tree made/copy')
    expect(await listing('made/copy')).toBe(await listing('tree'))
  })

  it('are read by GNU tar as they are', async () => {
    const { files, at, sh, spawned } = arena()
    await makeTree('out')
    await mkdir(at('by-tar'))
    await writeFile(at('out.tar'), files.readTree(at('out')))
    await sh('tar -xpf out.tar -C by-tar')
    expect(await listing('by-tar')).toBe(await listing('out'))
    expect(await sh('tar -df out.tar -C out')).toBe('')
    expect((await promisify(execFile)(spawned.binary, ['tar', at('none')]).catch((error) => error)).code).toBe(2)
  })

  it.each(['gnu', 'pax', 'ustar', 'oldgnu', 'v7'])(
    'of GNU tar in its format %s are unpacked as they are',
    async (format) => {
      const { files, at, sh } = arena()
      const name = `from-${format}`
      await makeTree(name)
      // What a format cannot say is not asked of it.
      if (format === 'ustar' || format === 'v7')
        await sh(`cd ${name}; rm -rf l*; chown -f -h 1:2 random; touch none block`)
      if (format === 'v7') await sh(`cd ${name}; rm pipe`)
      if (format !== 'pax') await sh(`cd ${name}; find . -print0 | xargs -0 touch -h -d @1234567890`)
      await sh(`tar --format=${format} -cf ${name}.tar -C ${name} .`)
      await files.writeTree(at(`${name}.copy`), createReadStream(at(`${name}.tar`)))
      expect(await listing(`${name}.copy`)).toBe(await listing(name))
    },
  )

  it('may be a single file, which has its own name', async () => {
    const { files, at, sh } = arena()
    await sh('mkdir single; echo alone > single/file; ln -s file single/link')
    await files.writeTree(at('single/copy'), files.readTree(at('single/link')))
    expect(await readFile(at('single/copy/link'), 'utf8')).toBe('alone\n')
    await expect(bytesOf(files.readTree(at('single/none')))).rejects.toMatchObject({ code: 'file_not_found' })
    await expect(bytesOf(files.readTree('/dev/null'))).rejects.toMatchObject(refused)
  })

  it('are archives also when files change meanwhile', async () => {
    const { files, at, sh } = arena()
    await mkdir(at('changing'))
    for (const name of ['a', 'b', 'c']) await writeFile(at(`changing/${name}`), Buffer.alloc(8 << 20, name))
    const reading = files.readTree(at('changing'))[Symbol.asyncIterator]()
    const first = await reading.next()
    // The reader stands still, and so does the program: it is in the first of the three.
    for (const name of ['a', 'b', 'c']) await truncate(at(`changing/${name}`), 1000)
    await appendFile(at('changing/c'), Buffer.alloc(1 << 20))
    const rest: Buffer[] = [first.value as Buffer]
    for (let next = await reading.next(); !next.done; next = await reading.next()) rest.push(next.value)
    await writeFile(at('changing.tar'), Buffer.concat(rest))
    const sizes = (await sh("tar -tvf changing.tar | awk '/-rw/ {print $3}' | sort -n")).trim().split('\n').map(Number)
    expect(sizes.at(-1)).toBe(8 << 20)
    expect(sizes).toHaveLength(3)
  })

  it('of great depth, and of many files, are read and written', async () => {
    const { files, at, sh } = arena()
    await makeDeep(at('deep'), 1500)
    expect(await files.writeTree(at('deep/copy'), files.readTree(at('deep/d')))).toMatchObject({ files: 1499 })
    const { items } = await files.list(at('deep/copy'), { recursive: true, max: 10_000 })
    expect(items).toHaveLength(1499 * 2)
    await sh(
      'mkdir many; cd many; for d in $(seq 20); do mkdir $d; for f in $(seq 100); do echo $f > $d/$f; done; done',
    )
    expect(await files.writeTree(at('many.copy'), files.readTree(at('many')))).toMatchObject({ files: 2000 })
    await sh('diff -r many many.copy')
  })

  const unpack = (name: string, entries: readonly CraftedEntry[], options?: { endMarker?: boolean }) =>
    arena().files.writeTree(arena().at(name), pieces(craftTar(entries, options)))

  it('that would leave their directory are refused, and nothing after is written', async () => {
    const { at, sh } = arena()
    await sh('mkdir outside; echo kept > outside/file')
    const after = { name: 'after', body: 'x' }
    const hostile: CraftedEntry[][] = [
      [{ name: '../escaped', body: 'x' }],
      [{ name: '/escaped', body: 'x' }],
      [{ name: 'a/../../escaped', body: 'x' }],
      [{ name: 'a/..', flag: '5' }],
      [{ name: 'x', pax: { path: '../escaped' }, body: 'x' }],
      [{ name: 'escaped', prefix: '..', body: 'x' }],
      [{ name: 'hard', flag: '1', link: '../outside/file' }],
      [{ name: 'hard', flag: '1', link: `${at('outside')}/file` }],
      [{ name: '', body: 'x' }],
    ]
    for (const [index, entries] of hostile.entries()) {
      await expect(
        unpack(`in${index}`, [{ name: 'before', body: 'x' }, ...entries, after]),
        `${index}`,
      ).rejects.toMatchObject(invalid)
      expect(await readdir(at(`in${index}`))).toEqual(['before'])
    }
    const through: CraftedEntry[][] = [
      [
        { name: 'way', flag: '2', link: '../outside' },
        { name: 'way/file', body: 'x' },
      ],
      [
        { name: 'way', flag: '2', link: '../outside' },
        { name: 'way', flag: '5' },
      ],
      [
        { name: 'way', flag: '2', link: '../outside' },
        { name: 'hard', flag: '1', link: 'way/file' },
      ],
      [
        { name: 'way', flag: '2', link: '.' },
        { name: 'way/way/file', body: 'x' },
      ],
    ]
    for (const [index, entries] of through.entries()) {
      await expect(unpack(`through${index}`, [...entries, after]), `${index}`).rejects.toMatchObject(refused)
      expect(await readdir(at(`through${index}`))).toEqual(['way'])
    }
    // A link in the way of a file gives way to it.
    await unpack('replaced', [
      { name: 'way', flag: '2', link: '../outside/file' },
      { name: 'way', body: 'own' },
    ])
    expect(await readFile(at('replaced/way'), 'utf8')).toBe('own')
    expect(await sh('cat outside/file; ls outside')).toBe('kept\nfile\n')
    expect((await readdir(at(''))).filter((name) => name === 'escaped')).toEqual([])
  })

  it('that are broken are refused, and what came before stays', async () => {
    const { files, at } = arena()
    const whole = craftTar([
      { name: 'one', body: 'x'.repeat(1000) },
      { name: 'two', body: 'y'.repeat(1000) },
    ])
    for (const cut of [0, 100, 512, 1200, 1536, 2048, 3000, 3584]) {
      const unpacked = files.writeTree(at(`cut${cut}`), pieces(whole.subarray(0, cut)))
      await expect(unpacked, `${cut}`).rejects.toMatchObject(invalid)
      expect((await readdir(at(`cut${cut}`))).includes('one')).toBe(cut >= 1536)
    }
    await files.writeTree(at('no-fill'), pieces(whole))
    await files.writeTree(at('fill'), pieces(whole, Buffer.alloc(20_000)))
    const broken: CraftedEntry[][] = [
      [{ name: 'x', rawSize: Buffer.from('garbage here') }],
      [{ name: 'x', rawSize: Buffer.alloc(12, 0xff) }],
      [{ name: 'x', pax: { size: '-1' } }],
      [{ name: 'x', pax: { size: '99999999999999999999' } }],
      [{ name: 'x', pax: { mtime: 'now' } }],
      [{ name: 'x', pax: { path: 'a\0b' } }],
      [{ name: 'x', pax: { 'GNU.sparse.major': '1' } }],
      [{ name: 'x', flag: 'S' }],
      [{ name: 'x', flag: 'L', claimedBytes: 2 ** 33 }],
      [{ name: 'x', claimedBytes: 2 ** 33 }],
      [{ name: 'x', flag: '2' }],
      [{ name: 'x', flag: '1' }],
    ]
    for (const [index, entries] of broken.entries())
      await expect(unpack(`broken${index}`, entries), `${index}`).rejects.toMatchObject(invalid)
    const garbage = pieces(Buffer.alloc(4096, 'garbage'))
    await expect(files.writeTree(at('garbage'), garbage)).rejects.toMatchObject(invalid)
    await expect(files.writeTree(at('no-fill/one'), pieces(whole))).rejects.toMatchObject(refused)
    await expect(unpack('no-fill', [{ name: 'one/under', body: 'x' }])).rejects.toMatchObject(refused)
    await mkdir(at('no-fill/dir/full'), { recursive: true })
    await expect(unpack('no-fill', [{ name: 'dir', body: 'x' }])).rejects.toMatchObject(refused)
    const breaking = pieces(whole.subarray(0, 700), new Error('it broke'))
    await expect(files.writeTree(at('breaking'), breaking)).rejects.toThrow('it broke')
  })

  it('leave devices out, and count them', async () => {
    const { files, at } = arena()
    const archive = pack()
    archive.entry({ name: 'null', type: 'character-device', devmajor: 1, devminor: 3 })
    archive.entry({ name: 'disk', type: 'block-device', devmajor: 8, devminor: 0 })
    archive.entry({ name: 'big', mode: 0o640 }, 'y'.repeat(10_000))
    archive.finalize()
    const counts = { files: 1, bytes: 10_000, skipped: 2 }
    expect(await files.writeTree(at('devices'), Readable.from(archive))).toEqual(counts)
    expect(await readdir(at('devices'))).toEqual(['big'])
  })

  it('keep the mode of a directory that was there, and their own inside', async () => {
    const { at, sh } = arena()
    await sh('mkdir -m 1777 there')
    const entries = [
      { name: './', flag: '5', mode: 0o700 },
      { name: './sub/', flag: '5', mode: 0o500 },
      { name: 'sub/x', body: 'x' },
    ]
    await unpack('there', entries)
    expect((await stat(at('there'))).mode & 0o7777).toBe(0o1777)
    expect((await stat(at('there/sub'))).mode & 0o7777).toBe(0o500)
    expect((await stat(at('there/sub'))).mtimeMs).toBe(1_577_836_800_000)
  })

  it.runIf(isRoot)('written by a user are that user’s', async () => {
    const { files, at, sh } = arena()
    await sh('chmod 755 .; mkdir -m 777 users')
    const archive = craftTar([
      { name: 'd', flag: '5', uid: 0, mode: 0o500 },
      { name: 'd/x', uid: 0, mode: 0o4755, body: 'x' },
    ])
    await files.writeTree(at('users/tree'), pieces(archive), { user: 'nobody' })
    expect(await stat(at('users/tree/d/x'))).toMatchObject({ uid: 65_534, mode: 0o100755 })
    expect((await stat(at('users/tree/d'))).mode & 0o777).toBe(0o500)
    await expect(files.writeTree(at('refused'), pieces(archive), { user: 'nobody' })).rejects.toMatchObject(refused)
    await sh('mkdir secrets; mkdir -m 700 secrets/own; chmod 755 secrets')
    await expect(bytesOf(files.readTree(at('secrets'), { user: 'nobody' }))).rejects.toMatchObject(refused)
  })

  it('leave sockets out', async () => {
    const { at, sh, spawned } = arena()
    await sh('mkdir sockets; touch sockets/file; ln agent.sock sockets/socket')
    expect(await sh(`${spawned.binary} tar ${at('sockets')} | tar -t`)).toBe('./\nfile\n')
  })

  it.runIf(isRoot)('leave out what the kernel makes up', async () => {
    const { at, sh, spawned } = arena()
    await sh('mkdir -p kernels/proc; touch kernels/zz')
    const script = `mount -t proc proc ${at('kernels/proc')}; ${spawned.binary} tar ${at('kernels')} | tar -t | sort`
    expect(await sh(`unshare -m sh -c '${script}'`)).toBe('./\nproc/\nzz\n')
  })
})
