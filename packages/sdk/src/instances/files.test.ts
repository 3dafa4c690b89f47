import { lstat, mkdir, mkdtemp, readFile, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type InstanceNode, openInstanceNode } from '../../test/instance-node.ts'
import { Bramble, type Instance } from '../index.ts'
import { downloadDirectory, uploadDirectory } from '../node/index.ts'
import { type TarEntry, tarEnd, tarHeader, tarPadding } from './tar.ts'

let directory: string
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'bramble-sdk-files-'))
})
afterEach(() => rm(directory, { recursive: true, force: true }))

const opened = await openInstanceNode()

describe.skipIf('skip' in opened)(`the files of an instance${'skip' in opened ? `: ${opened.skip}` : ''}`, () => {
  const node = opened as InstanceNode
  let box: Instance

  beforeAll(async () => {
    box = await new Bramble({ url: node.url, apiKey: node.key }).instances.start()
  })
  afterAll(() => node[Symbol.asyncDispose]())

  test('are written from anything and read as a whole, a range, or a stream', async () => {
    const { files } = box
    expect(await files.write('/a/b/text', 'grüße', { mode: 0o600 })).toMatchObject({ sizeBytes: 7, mode: 0o600 })
    expect(await files.readText('/a/b/text')).toBe('grüße')
    await files.write('/a/bytes', new Uint8Array([0, 1, 255]))
    expect([...(await files.read('/a/bytes'))]).toEqual([0, 1, 255])
    await files.write('/a/blob', new Blob(['of a blob']))
    expect(await files.readText('/a/blob', { offset: 3, length: 1 })).toBe('a')
    const big = async function* () {
      for (let i = 0; i < 40; i++) yield new Uint8Array(100_000).fill(i)
    }
    expect(await files.write('/a/big', big())).toMatchObject({ sizeBytes: 4_000_000 })
    let at = 0
    for await (const piece of await files.readStream('/a/big')) {
      expect(piece[0]).toBe(Math.floor(at / 100_000))
      at += piece.length
    }
    expect(at).toBe(4_000_000)
    expect((await files.read('/a/big', { offset: 3_999_999 })).length).toBe(1)
    expect((await files.read('/a/big', { length: 0 })).length).toBe(0)
  })

  test('have any name', async () => {
    const { files } = box
    for (const name of ['a b', 'a?b#c%2f', 'ünï', '...', "it's", '+', '&x=1']) {
      await files.write(`/names/${name}`, name)
      expect(await files.readText(`/names/${name}`)).toBe(name)
      expect(await files.stat(`/names/${name}`)).toMatchObject({ path: `/names/${name}` })
    }
    const bytes = new Uint8Array([...Buffer.from('/names/'), 0xff, 0xfe])
    await files.write(bytes, 'no UTF-8')
    expect(await files.readText(bytes)).toBe('no UTF-8')
    const { items } = await files.list('/names')
    expect(items.filter(({ encoding }) => encoding === 'base64')).toHaveLength(1)
    await files.write('/names/../names/./dots', 'x')
    expect(await files.readText('/names/dots')).toBe('x')
  })

  test('are listed, moved, changed and removed', async () => {
    const { files } = box
    await files.mkdir('/c/d', { parents: true, mode: 0o750 })
    expect(await files.stat('/c/d')).toMatchObject({ type: 'directory', mode: 0o750 })
    await files.write('/c/d/x', '1')
    await files.move('/c/d/x', '/c/y')
    await files.chmod('/c/y', 0o755)
    await files.chown('/c/y', { uid: 12, gid: 34 })
    expect(await files.stat('/c/y')).toMatchObject({ mode: 0o755, uid: 12, gid: 34 })
    const { items, truncated } = await files.list('/c', { recursive: true })
    expect([items.map(({ path }) => path), truncated]).toEqual([['/c/d', '/c/y'], false])
    await expect(files.remove('/c')).rejects.toMatchObject({ code: 'file_refused' })
    await files.remove('/c', { recursive: true })
    await expect(files.stat('/c')).rejects.toMatchObject({ code: 'file_not_found' })
    await expect(files.read('/c')).rejects.toMatchObject({ code: 'file_not_found' })
    await expect(files.read('/etc')).rejects.toMatchObject({ code: 'file_refused' })
  })

  test('a tree of the program goes in as it is written', async () => {
    const long = `${'deep/'.repeat(40)}end`
    const tree = { 'x.txt': 'text', 'bin/run': { content: '#!/bin/sh\necho ran\n', mode: 0o755 }, [long]: 'far' }
    expect(await box.files.upload(tree, '/tree')).toMatchObject({ files: 3 })
    expect(await box.exec('/tree/bin/run').text()).toBe('ran\n')
    expect(await box.files.readText(`/tree/${long}`)).toBe('far')
  })

  test('a tree of the host goes in and comes out the same', async () => {
    const from = join(directory, 'from')
    await mkdir(join(from, 'empty'), { recursive: true })
    await mkdir(join(from, 'many'))
    const big = Buffer.alloc(1_500_000, 'x')
    await writeFile(join(from, 'big'), big)
    await writeFile(join(from, 'run'), 'echo', { mode: 0o755 })
    for (let i = 0; i < 200; i++) await writeFile(join(from, 'many', String(i)), `file ${i}`)
    await symlink('../run', join(from, 'many', 'link'))
    let sent = 0
    const onBytes = (bytes: number) => {
      sent += bytes
    }
    expect(await uploadDirectory(box, from, '/host', { onBytes })).toMatchObject({ files: expect.any(Number) })
    expect(sent).toBeGreaterThan(big.length)
    expect(await box.exec('ls /host/many | wc -l; test -x /host/run; readlink /host/many/link').text()).toBe(
      '201\n../run\n',
    )

    const to = join(directory, 'to')
    const { files, skipped } = await downloadDirectory(box, '/host', to)
    expect([files, skipped]).toEqual([202, 0])
    expect(await readFile(join(to, 'big'))).toEqual(big)
    expect((await stat(join(to, 'run'))).mode & 0o777).toBe(0o755)
    expect(await readlink(join(to, 'many', 'link'))).toBe('../run')
    expect((await stat(join(to, 'empty'))).isDirectory()).toBe(true)
    expect((await stat(join(to, 'run'))).mtimeMs).toBeCloseTo((await stat(join(from, 'run'))).mtimeMs, -4)
  })

  test('what is left out stays here; a single file is a tree too', async () => {
    await mkdir(join(directory, 'node_modules'))
    await writeFile(join(directory, 'node_modules/x'), 'x')
    await writeFile(join(directory, 'y'), 'y')
    await uploadDirectory(box, directory, '/some', { filter: (path) => path !== 'node_modules' })
    expect((await box.files.list('/some', { recursive: true })).items.map(({ path }) => path)).toEqual(['/some/y'])
    await uploadDirectory(box, join(directory, 'y'), '/one')
    expect(await box.files.readText('/one/y')).toBe('y')
  })

  test('a watch that is disposed of ends for its reader, on a stream of its own and on one with others', async () => {
    await using stream = await box.stream({ processes: false })
    for (const open of [() => box.watch('/etc'), () => stream.watch('/etc')]) {
      const watch = open()
      await watch.ready
      const read = (async () => {
        for await (const event of watch) throw new Error(JSON.stringify(event))
      })()
      await watch[Symbol.asyncDispose]()
      await watch[Symbol.asyncDispose]()
      await read
    }
    while ((await stream.getState()).watches.length > 0);
  })

  test('a watch tells of changes until it is left', async () => {
    await box.files.mkdir('/watched')
    const watch = box.watch('/watched')
    await watch.ready
    await box.exec('echo 1 > /watched/a; mkdir /watched/d; mv /watched/a /watched/b; rm /watched/b', { check: true })
    const seen: string[] = []
    for await (const { event, path, to } of watch) {
      seen.push(to === undefined ? `${event} ${path}` : `${event} ${path} ${to}`)
      if (event === 'delete') break
    }
    expect(seen).toEqual(
      expect.arrayContaining(['create /watched/a', 'move /watched/a /watched/b', 'delete /watched/b']),
    )
  })
})

describe('a tree that is not to be trusted', () => {
  const place = (...entries: (Partial<TarEntry> & { path: string; content?: string })[]) => {
    const pieces = entries.flatMap(({ content = '', ...entry }) => {
      const bytes = Buffer.from(content)
      const whole = { type: 'file', sizeBytes: bytes.length, mode: 0o4777, modifiedAtMs: 0, ...entry } as const
      return [tarHeader(whole), bytes, tarPadding(bytes.length)]
    })
    const archive = Buffer.concat([...pieces, tarEnd()])
    return { files: { download: async () => new Blob([archive]).stream() } } as unknown as Instance
  }

  test.each(['../out', '/../out', 'a/../../out', 'a/..'])('%j leaves nothing outside', async (path) => {
    const to = join(directory, 'to')
    await expect(downloadDirectory(place({ path, content: 'x' }), '/', to)).rejects.toMatchObject({
      code: 'bad_response',
    })
    await expect(lstat(join(directory, 'out'))).rejects.toMatchObject({ code: 'ENOENT' })
  })

  test('an absolute name is one below the directory', async () => {
    await downloadDirectory(place({ path: '/etc/x', content: 'x' }), '/', directory)
    expect(await readFile(join(directory, 'etc/x'), 'utf8')).toBe('x')
  })

  test('nothing is written through a link, of the tree or of this host', async () => {
    const outside = join(directory, 'outside')
    await mkdir(outside)
    const to = join(directory, 'to')
    await mkdir(to)
    const link = { path: 'link', type: 'symlink', target: outside } as const
    await downloadDirectory(place(link, { path: 'link', content: 'over it' }), '/', to).catch(() => undefined)
    await symlink(outside, join(to, 'here'))
    await expect(downloadDirectory(place({ path: 'here/x', content: 'x' }), '/', to)).rejects.toMatchObject({
      code: 'bad_response',
    })
    await writeFile(join(outside, 'file'), 'mine')
    await symlink(join(outside, 'file'), join(to, 'file'))
    await downloadDirectory(place({ path: 'file', content: 'theirs' }), '/', to)
    expect(await readFile(join(outside, 'file'), 'utf8')).toBe('mine')
    expect(await readFile(join(to, 'file'), 'utf8')).toBe('theirs')
    await expect(lstat(join(outside, 'x'))).rejects.toMatchObject({ code: 'ENOENT' })
  })

  test('bits that give rights to others do not come along', async () => {
    await downloadDirectory(place({ path: 'setuid', content: 'x' }), '/', directory)
    expect((await stat(join(directory, 'setuid'))).mode & 0o7000).toBe(0)
  })
})
