import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { beforeEach, describe, expect, it } from 'vitest'
import type { ImportProgress } from './image-store.ts'
import { openImageStore } from './open-image-store.ts'
import { craftTar } from './testing/craft-tar.ts'
import { needs, openTestStore } from './testing/test-store.ts'

const run = promisify(execFile)
const notInUse = { inUse: () => false }
const tarOf = (word: string) => craftTar([{ name: 'word', body: word }])

beforeEach((context) => needs(context, 'umoci'))

describe('a root filesystem tar', () => {
  it('has one digest however it is compressed, and is unpacked once', async (context) => {
    await needs(context, 'xz')
    await using test = await openTestStore()
    const plain = tarOf('hello')
    const path = await test.file('plain.tar', plain)
    await run('xz', ['--keep', path])
    const paths = [
      path,
      await test.file('a.gz', gzipSync(plain)),
      await test.file('a.zst', zstdCompressSync(plain)),
      `${path}.xz`,
    ]
    const images = []
    for (const path of paths) images.push(await test.store.import({ kind: 'rootfsTar', path }))
    const [first] = images
    expect(new Set(images.map(({ digest }) => digest)).size).toBe(1)
    expect(images.every(({ createdAt }) => createdAt === first?.createdAt)).toBe(true)
    expect(await readFile(join(first?.rootfs ?? '', 'word'), 'utf8')).toBe('hello')
    expect(first?.config).toMatchObject({ workdir: '/', user: 'root', env: { PATH: expect.stringContaining('/bin') } })
    expect(first?.sizeBytes).toBe(5)
    expect(await readdir(test.path('store/tmp'))).toEqual([])
  })

  it('damaged after compression is refused, whatever the format', async (context) => {
    await needs(context, 'xz')
    await using test = await openTestStore()
    const plain = craftTar([{ name: 'noise', body: 'some text, again and again. '.repeat(500) }])
    const path = await test.file('plain.tar', plain)
    await run('xz', ['--keep', path])
    const compressed = { xz: await readFile(`${path}.xz`), gzip: gzipSync(plain), zstd: zstdCompressSync(plain) }
    for (const [format, data] of Object.entries(compressed)) {
      const half = data.subarray(0, Math.floor(data.length / 2))
      await test.expectTarRefused(half, new RegExp(`${format} stream is damaged or cut short`))
    }
  })

  it('takes a config, which is part of the digest', async () => {
    await using test = await openTestStore()
    const path = await test.file('in.tar', tarOf('x'))
    const plain = await test.store.import({ kind: 'rootfsTar', path })
    const config = { env: { LANG: 'C' }, user: 'app', workdir: '/home/app' }
    const configured = await test.store.import({ kind: 'rootfsTar', path, config })
    expect(configured.config).toEqual(config)
    expect(configured.digest).not.toBe(plain.digest)
  })

  it('tells its progress by phases', async () => {
    await using test = await openTestStore()
    const seen: ImportProgress[] = []
    const path = await test.file('in.tar', tarOf('x'.repeat(1000)))
    await test.store.import({ kind: 'rootfsTar', path }, { onProgress: (progress) => seen.push(progress) })
    expect([...new Set(seen.map(({ phase }) => phase))]).toEqual(['copy', 'unpack', 'commit'])
    for (const { fraction = 0 } of seen) expect(fraction).toSatisfy((value: number) => value >= 0 && value <= 1)
  })
})

describe('a directory', () => {
  it('has the same digest as long as it is the same', async () => {
    await using test = await openTestStore()
    const root = test.path('root')
    await mkdir(join(root, 'etc'), { recursive: true })
    await writeFile(join(root, 'etc/motd'), 'one')
    const source = { kind: 'rootfsDirectory', path: root } as const
    const [first, again] = [await test.store.import(source), await test.store.import(source)]
    await writeFile(join(root, 'etc/motd'), 'two')
    const changed = await test.store.import(source)
    expect(again.digest).toBe(first.digest)
    expect(changed.digest).not.toBe(first.digest)
    expect(await readFile(join(first.rootfs, 'etc/motd'), 'utf8')).toBe('one')
  })
})

describe('names and digests', () => {
  it('a name moves to the image imported last under it', async () => {
    await using test = await openTestStore()
    const one = await test.importTar(tarOf('one'), 'word')
    const two = await test.importTar(tarOf('two'), 'word')
    expect(test.store.resolve('word').digest).toBe(two.digest)
    expect(test.store.resolve(one.digest).names).toEqual([])
    expect(two.names).toEqual(['word'])
  })

  it('resolves names, digests and prefixes, and nothing else', async () => {
    await using test = await openTestStore()
    const { digest } = await test.importTar(tarOf('x'), 'team/word:v1')
    for (const found of ['team/word:v1', digest, digest.slice(0, 15), digest.slice(7, 15), digest.slice(7)]) {
      expect(test.store.resolve(found).digest).toBe(digest)
    }
    for (const missing of ['team/word', digest.slice(7, 14), 'sha256:', '', '../word', `${digest}0`]) {
      expect(() => test.store.resolve(missing)).toThrow(expect.objectContaining({ code: 'image_not_found' }))
    }
  })

  it('lists by name, and those without one last', async () => {
    await using test = await openTestStore()
    for (const word of ['b', 'a']) await test.importTar(tarOf(word), word)
    await test.importTar(tarOf('nameless'))
    expect(test.store.list().map(({ names }) => names)).toEqual([['a'], ['b'], []])
  })

  it('refuses what is not a name, or looks like a digest', async () => {
    await using test = await openTestStore()
    for (const name of ['Upper', '-dash', 'a b', '', '../x', `sha256:${'a'.repeat(64)}`]) {
      await expect(test.importTar(tarOf('x'), name)).rejects.toMatchObject({ code: 'invalid_request' })
    }
    await test.expectEmpty()
  })

  it('keeps images and names over a restart', async () => {
    await using test = await openTestStore()
    await test.importTar(tarOf('one'), 'one')
    await test.importTar(tarOf('two'))
    expect((await openImageStore(test.options)).list()).toEqual(test.store.list())
  })

  it('an image whose record is lost is not listed, and can be imported again', async () => {
    await using test = await openTestStore()
    const { digest, rootfs } = await test.importTar(tarOf('x'), 'x')
    await rm(join(rootfs, '../image.json'))
    const store = await openImageStore(test.options)
    expect(store.list()).toEqual([])
    await store.import({ kind: 'rootfsTar', path: test.path('in.tar') }, { name: 'x' })
    expect(store.resolve('x').digest).toBe(digest)
    expect(await readFile(join(rootfs, 'word'), 'utf8')).toBe('x')
  })
})

describe('remove', () => {
  it('takes the image, its names and its files, for good', async () => {
    await using test = await openTestStore()
    const { digest } = await test.importTar(tarOf('x'), 'x')
    await test.store.remove(digest, notInUse)
    expect(() => test.store.resolve('x')).toThrow(expect.objectContaining({ code: 'image_not_found' }))
    await expect(test.store.remove(digest, notInUse)).rejects.toMatchObject({ code: 'image_not_found' })
    await test.expectEmpty()
    expect((await openImageStore(test.options)).list()).toEqual([])
  })

  it('leaves an image that is in use', async () => {
    await using test = await openTestStore()
    const { digest, rootfs } = await test.importTar(tarOf('x'), 'x')
    const inUse = (asked: string) => asked === digest
    await expect(test.store.remove(digest, { inUse })).rejects.toMatchObject({ code: 'image_in_use' })
    expect(test.store.resolve('x').digest).toBe(digest)
    expect(await readFile(join(rootfs, 'word'), 'utf8')).toBe('x')
  })

  it('and import at once end with the image there', async () => {
    await using test = await openTestStore()
    const { digest } = await test.importTar(tarOf('x'), 'x')
    const [, again] = await Promise.all([test.store.remove(digest, notInUse), test.importTar(tarOf('x'), 'y')])
    expect(test.store.list()).toEqual([again])
    expect(await readFile(join(again.rootfs, 'word'), 'utf8')).toBe('x')
  })
})

/** A umoci that says when it runs, and how often, and goes on when it may: it makes the order of events certain. */
const heldUmoci = async (test: Awaited<ReturnType<typeof openTestStore>>) => {
  await run('mkfifo', [test.path('started'), test.path('go')])
  const script = `#!/bin/sh\necho $$ >> ${test.path('runs')}\necho > ${test.path('started')}\nread _ < ${test.path('go')}\nexec umoci "$@"\n`
  await chmod(await test.file('umoci', script), 0o755)
  return {
    umoci: test.path('umoci'),
    started: () => readFile(test.path('started')),
    go: () => writeFile(test.path('go'), 'go\n'),
    runs: async () => (await readFile(test.path('runs'), 'utf8')).trim().split('\n').map(Number),
  }
}

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

describe('concurrent imports of one digest', () => {
  it('share the work, even when the one that began leaves', async () => {
    await using test = await openTestStore()
    const held = await heldUmoci(test)
    const store = await openImageStore({ ...test.options, tools: { umoci: held.umoci } })
    const path = await test.file('in.tar', tarOf('x'))
    const joined = Promise.withResolvers<void>()
    const abort = new AbortController()
    const first = store.import({ kind: 'rootfsTar', path }, { signal: abort.signal })
    const left = expect(first).rejects.toThrow('enough')
    await held.started()
    const second = store.import(
      { kind: 'rootfsTar', path },
      { name: 'x', onProgress: ({ phase }) => phase === 'commit' && joined.resolve() },
    )
    const third = store.import({ kind: 'rootfsTar', path })
    // Both have read the archive, and so joined, once only the directory of the job is left.
    await expect.poll(() => readdir(test.path('store/tmp'))).toHaveLength(1)
    abort.abort(new Error('enough'))
    await left
    await held.go()
    await joined.promise
    expect((await second).digest).toBe((await third).digest)
    expect(await held.runs()).toHaveLength(1)
    expect(await readdir(test.path('store/tmp'))).toEqual([])
  })
})

describe('an abort', () => {
  it('kills the program at work, and leaves nothing', async () => {
    await using test = await openTestStore()
    const held = await heldUmoci(test)
    const store = await openImageStore({ ...test.options, tools: { umoci: held.umoci } })
    const abort = new AbortController()
    const path = await test.file('in.tar', tarOf('x'))
    const importing = store.import({ kind: 'rootfsTar', path }, { name: 'x', signal: abort.signal })
    const refused = expect(importing).rejects.toThrow('enough')
    await held.started()
    const [pid = 0] = await held.runs()
    expect(isAlive(pid)).toBe(true)
    abort.abort(new Error('enough'))
    await refused
    expect(isAlive(pid)).toBe(false)
    expect(store.list()).toEqual([])
    await test.expectEmpty()
  })

  it('before the start does nothing at all', async () => {
    await using test = await openTestStore()
    const path = await test.file('in.tar', tarOf('x'))
    const signal = AbortSignal.abort(new Error('never mind'))
    await expect(test.store.import({ kind: 'rootfsTar', path }, { signal })).rejects.toThrow('never mind')
    await test.expectEmpty()
  })
})

it('a missing program is named, with its package', async () => {
  await using test = await openTestStore({ tools: { umoci: '/nonexistent/umoci' } })
  const path = await test.file('in.tar', tarOf('x'))
  await test.expectRefused(
    { kind: 'rootfsTar', path },
    /umoci is not installed \(Debian package umoci\)/,
    'unsupported',
  )
})

it('what a killed process left is removed by the next open, and what a living one does is not', async () => {
  await using test = await openTestStore()
  const held = await heldUmoci(test)
  const path = await test.file('in.tar', tarOf('x'))
  const options = JSON.stringify({ ...test.options, tools: { umoci: held.umoci } })
  const script = `
    import { openImageStore } from ${JSON.stringify(new URL('./open-image-store.ts', import.meta.url).href)}
    const store = await openImageStore(${options})
    await store.import({ kind: 'rootfsTar', path: ${JSON.stringify(path)} }, { name: 'x' })`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], { stdio: 'ignore' })
  await held.started()
  await openImageStore(test.options)
  expect(await readdir(test.path('store/tmp'))).toHaveLength(1)
  child.kill('SIGKILL')
  await once(child, 'exit')
  for (const pid of await held.runs()) process.kill(pid, 'SIGKILL')
  const store = await openImageStore(test.options)
  expect(store.list()).toEqual([])
  await test.expectEmpty()
})
