import { lstat, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { isRoot, makeDeep, useFileArena } from './testing/file-arena.ts'

const refused = { code: 'file_refused' }
const missing = { code: 'file_not_found' }

describe('the names of files', () => {
  const arena = useFileArena()

  it('are told with what they name, through links only when asked', async () => {
    const { files, at, sh } = arena()
    await sh(
      'mkdir stats; cd stats; echo 12345 > file; chmod 4640 file; touch -d @1500000000.123 file; ln -s file link',
    )
    const file = { type: 'file', sizeBytes: 6, mode: 0o4640, modifiedAtMs: 1_500_000_000_123 }
    expect(await files.stat(at('stats/file'))).toMatchObject({ ...file, path: Buffer.from(at('stats/file')) })
    expect(await files.stat(at('stats/link'))).toMatchObject({ type: 'symlink', target: Buffer.from('file') })
    const followed = await files.stat(at('stats/link'), { followLinks: true })
    expect(followed).toMatchObject(file)
    expect(followed).not.toHaveProperty('target')
    expect(await files.stat('/dev/null')).toMatchObject({ type: 'device' })
    expect(await files.stat(at('agent.sock'))).toMatchObject({ type: 'socket' })
    expect(await files.stat('..')).toMatchObject({ type: 'directory', path: Buffer.from('/..') })
    await expect(files.stat(at('stats/none'))).rejects.toMatchObject(missing)
    await expect(files.stat(at('stats/file/under'))).rejects.toMatchObject(missing)
    await sh('touch -d 1960-01-01T00:00:00.25Z stats/old')
    expect((await files.stat(at('stats/old'))).modifiedAtMs).toBe(-315_619_200_000 + 250)
  })

  it('of a directory are listed in order, of a tree too, and no more than asked', async () => {
    const { files, at, sh } = arena()
    await sh('mkdir -p list/b/c; cd list; touch a b/x "b/c/new\nline"; ln -s /nowhere link; mkfifo pipe')
    const names = async (options: { recursive?: boolean; max?: number }) => {
      const { items, truncated } = await files.list(at('list'), options)
      return { names: items.map(({ path }) => path.toString().slice(at('list/').length)), truncated }
    }
    expect(await names({})).toEqual({ names: ['a', 'b', 'link', 'pipe'], truncated: false })
    const all = ['a', 'b', 'b/c', 'b/c/new\nline', 'b/x', 'link', 'pipe']
    expect(await names({ recursive: true })).toEqual({ names: all, truncated: false })
    expect(await names({ recursive: true, max: 7 })).toEqual({ names: all, truncated: false })
    const some = await names({ recursive: true, max: 3 })
    expect([some.names.length, some.truncated]).toEqual([3, true])
    expect(await names({ max: 0 })).toEqual({ names: [], truncated: true })
    await expect(files.list(at('list/a'))).rejects.toMatchObject(refused)
    await expect(files.list(at('list/none'))).rejects.toMatchObject(missing)
    expect((await files.list(`${at('list')}//b/`)).items.map(({ path }) => path.toString())).toEqual([
      `${at('list')}//b/c`,
      `${at('list')}//b/x`,
    ])
  })

  it('of trees of any depth are listed and removed', async () => {
    const { files, at, sh } = arena()
    await makeDeep(at('deep'), 10_000)
    const { items, truncated } = await files.list(at('deep'), { recursive: true, max: 5000 })
    expect([items.length, truncated]).toEqual([5000, true])
    expect(Math.max(...items.map(({ path }) => path.length))).toBeGreaterThan(4096)
    await sh('mkdir outside; touch outside/kept; ln -s "$PWD/outside" deep/link')
    await files.remove(at('deep'), { recursive: true })
    expect(await readdir(at('outside'))).toEqual(['kept'])
    await expect(lstat(at('deep'))).rejects.toMatchObject({ code: 'ENOENT' })
  })

  it('are removed: a directory that is not empty only with all in it', async () => {
    const { files, at, sh } = arena()
    await sh(
      'mkdir -p gone/full/x gone/empty; touch gone/file; ln -s full gone/link; for i in $(seq 3000); do > gone/full/$i; done',
    )
    await expect(files.remove(at('gone/full'))).rejects.toMatchObject(refused)
    await expect(files.remove(at('gone/none'))).rejects.toMatchObject(missing)
    await expect(files.remove(at('gone/none'), { recursive: true })).rejects.toMatchObject(missing)
    await expect(files.remove(`${at('gone/full')}/..`, { recursive: true })).rejects.toMatchObject(refused)
    for (const name of ['empty', 'file']) await files.remove(at(`gone/${name}`))
    await files.remove(at('gone/link'), { recursive: true })
    expect(await readdir(at('gone'))).toEqual(['full'])
    await files.remove(`${at('gone')}/full/`, { recursive: true })
    expect(await readdir(at('gone'))).toEqual([])
  })

  it('of directories are made, with their parents when asked', async () => {
    const { files, at } = arena()
    await expect(files.makeDirectory(at('made/a/b'))).rejects.toMatchObject(missing)
    await files.makeDirectory(at('made/a/b'), { parents: true, mode: 0o1770 })
    expect((await stat(at('made/a/b'))).mode & 0o7777).toBe(0o1770)
    expect((await stat(at('made/a'))).mode & 0o7777).toBe(0o755)
    await files.makeDirectory(at('made/a/b'), { parents: true })
    await expect(files.makeDirectory(at('made/a/b'))).rejects.toMatchObject(refused)
    await writeFile(at('made/file'), '')
    await expect(files.makeDirectory(at('made/file/x'), { parents: true })).rejects.toMatchObject(refused)
    await expect(files.makeDirectory(at('x'), { mode: 0o10000 })).rejects.toMatchObject({ code: 'invalid_request' })
  })

  it('are moved, over what a rename may replace', async () => {
    const { files, at, sh } = arena()
    await sh('mkdir -p move/full/x move/empty move/dir; cd move; echo one > one; echo two > two; ln -s one link')
    await files.move(at('move/one'), at('move/two'))
    expect(await readFile(at('move/two'), 'utf8')).toBe('one\n')
    await files.move(at('move/link'), at('move/link2'))
    expect((await lstat(at('move/link2'))).isSymbolicLink()).toBe(true)
    await files.move(at('move/dir'), at('move/empty'))
    await expect(files.move(at('move/empty'), at('move/full'))).rejects.toMatchObject(refused)
    await expect(files.move(at('move/two'), at('move/full'))).rejects.toMatchObject(refused)
    await expect(files.move(at('move/none'), at('move/x'))).rejects.toMatchObject(missing)
    await expect(files.move(at('move/two'), at('nowhere/x'))).rejects.toMatchObject(refused)
    await expect(files.move(at('move/full'), at('move/full/x/y'))).rejects.toMatchObject(refused)
  })

  it('are moved to another file system with all they have', async () => {
    const { files, at, sh, leftovers } = arena()
    const other = await mkdtemp('/dev/shm/bramble-files-')
    try {
      await sh(
        'mkdir -p over/a/b; cd over; echo x > a/b/file; ln -s b/file a/link; chmod 1750 a; chmod 640 a/b/file; mkfifo a/pipe',
      )
      await sh(
        'cd over; truncate -s 100M a/sparse; touch -d @1500000000.123456789 a/b/file; touch -h -d @1400000000 a/link',
      )
      await sh('touch -d @1300000000 over/a')
      if (isRoot) await sh('chown -h 11:22 over/a/b/file over/a/link')
      const listing = `find . -printf '%P %y %m %U %G %s %T@ %l\\n' | grep -v '^b d\\|^ d' | sort`
      const before = await sh(`cd over/a; ${listing}`)
      await files.move(at('over/a'), join(other, 'a'))
      expect(await sh(`cd ${other}/a; ${listing}`)).toBe(before)
      expect(await sh(`stat -c '%a %Y' ${other}/a`)).toBe('1750 1300000000\n')
      expect((await stat(join(other, 'a/sparse'))).blocks).toBe(0)
      expect(await readdir(at('over'))).toEqual([])
      await writeFile(at('over/file'), 'new')
      await writeFile(join(other, 'file'), 'old')
      await files.move(at('over/file'), join(other, 'file'))
      expect(await readFile(join(other, 'file'), 'utf8')).toBe('new')
      await mkdir(at('over/dir'))
      await expect(files.move(at('over/dir'), join(other, 'file'))).rejects.toMatchObject(refused)
      await expect(files.move(at('over/dir'), join(other, 'a'))).rejects.toMatchObject(refused)
      expect(await leftovers(other)).toEqual([])
      expect(await readdir(at('over'))).toEqual(['dir'])
    } finally {
      await rm(other, { recursive: true })
    }
  })

  it('get the attributes that they are told', async () => {
    const { files, at } = arena()
    await writeFile(at('attributes'), 'x')
    const owner = isRoot ? { uid: 12, gid: 34 } : { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
    await files.setAttributes(at('attributes'), { mode: 0o6755, owner, modifiedAtMs: 1_234_567_890_123 })
    const expected = { mode: 0o6755, ...owner, modifiedAtMs: 1_234_567_890_123 }
    expect(await files.stat(at('attributes'))).toMatchObject(expected)
    await files.setAttributes(at('attributes'), { modifiedAtMs: -1500 })
    expect((await files.stat(at('attributes'))).modifiedAtMs).toBe(-1500)
    await files.setAttributes(at('attributes'), {})
    await expect(files.setAttributes(at('none'), { mode: 0o600 })).rejects.toMatchObject(missing)
    const invalid = { code: 'invalid_request' }
    await expect(files.setAttributes(at('attributes'), { mode: -1 })).rejects.toMatchObject(invalid)
    await expect(files.setAttributes(at('attributes'), { owner: { uid: 0.5, gid: 0 } })).rejects.toMatchObject(invalid)
    await expect(files.setAttributes(at('attributes'), { modifiedAtMs: Number.NaN })).rejects.toMatchObject(invalid)
  })
})
