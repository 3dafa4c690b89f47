import { execFile } from 'node:child_process'
import { mkdir, readdir, readFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it, type TestContext, vi } from 'vitest'
import { skip } from '../testing/subject.ts'
import { buildDebianImage } from './build-debian-image.ts'
import type { ImportProgress } from './image-store.ts'
import { processesNaming } from './testing/processes-naming.ts'
import { needs, openTestStore, skipUnlessRequired } from './testing/test-store.ts'

const needsDebian = async (context: TestContext) => {
  await needs(context, 'mmdebstrap', 'unshare', 'umoci')
  if (process.getuid?.() !== 0) skipUnlessRequired(context, 'mmdebstrap as it is used here needs root')
  const answer = await fetch('http://deb.debian.org/debian/dists/bookworm/InRelease', { method: 'HEAD' }).catch(
    () => undefined,
  )
  if (!answer?.ok) skipUnlessRequired(context, "Debian's packages cannot be reached")
}

it('a Debian image has its packages, public sources, and nothing of this host', {
  timeout: 300_000,
}, async (context) => {
  await needsDebian(context)
  await using test = await openTestStore()
  const seen: ImportProgress[] = []
  const image = await buildDebianImage(test.store, {
    packages: ['netbase'],
    name: 'debian:small',
    onProgress: (progress) => seen.push(progress),
  })
  expect(image.names).toEqual(['debian:small'])
  const read = (path: string) => readFile(join(image.rootfs, path), 'utf8')
  expect(await read('etc/services')).toContain('https')
  expect((await read('etc/apt/sources.list')).split('\n')[0]).toBe('deb http://deb.debian.org/debian bookworm main')
  expect(await read('etc/passwd')).toMatch(/^app:x:1000:1000:/m)
  expect(await readdir(join(image.rootfs, 'etc'))).not.toContain('resolv.conf')
  expect(await read('etc/hosts')).not.toMatch(new RegExp(`\\b${hostname()}\\b`))
  const inside = [image.rootfs, '/bin/bash', '-c', 'echo $((6 * 7)); id -un 1000']
  expect((await promisify(execFile)('/usr/sbin/chroot', inside)).stdout).toBe('42\napp\n')

  const fractions = seen.filter(({ phase }) => phase === 'build').map(({ fraction }) => fraction ?? Number.NaN)
  expect(fractions.length).toBeGreaterThan(100)
  expect(fractions.toSorted((a, b) => a - b)).toEqual(fractions)
  expect(seen.some(({ message }) => message === 'installing netbase')).toBe(true)
})

it('an aborted build leaves no file, process or mount', { timeout: 120_000 }, async (context) => {
  await needsDebian(context)
  await using test = await openTestStore()
  const abort = new AbortController()
  const temporary = test.path('temporary')
  await mkdir(temporary)
  vi.stubEnv('TMPDIR', temporary)
  const building = buildDebianImage(test.store, {
    packages: [],
    signal: abort.signal,
    onProgress: ({ message }) => message.startsWith('installing dpkg') && abort.abort(new Error('enough')),
  })
  await expect(building).rejects.toThrow('enough')
  vi.unstubAllEnvs()
  expect(await readdir(temporary)).toEqual([])
  expect(await readFile('/proc/mounts', 'utf8')).not.toContain(temporary)
  expect(await processesNaming(temporary)).toEqual([])
  await test.expectEmpty()
})

it('a package that does not exist is named', { timeout: 120_000 }, async (context) => {
  // It costs half a build to learn that apt knows no such package.
  if (process.env.TEST_DEBIAN !== 'all') skip(context, 'TEST_DEBIAN=all runs it')
  await needsDebian(context)
  await using test = await openTestStore()
  const building = buildDebianImage(test.store, { packages: ['no-such-package-here'] })
  await expect(building).rejects.toMatchObject({ code: 'image_invalid', detail: /no-such-package-here/ })
})

it('what is no package, suite or mirror never reaches a shell', async () => {
  await using test = await openTestStore()
  const build = (options: object) => buildDebianImage(test.store, { packages: [], ...options })
  for (const options of [
    { packages: ['python3', 'x;reboot'] },
    { packages: ['--help'] },
    { packages: ['a,b'] },
    { packages: Array(300).fill('bash') },
    { suite: "bookworm'; reboot #" },
    { suite: '../x' },
    { mirror: 'file:///etc' },
    { mirror: 'http://x y' },
    { mirror: 'deb http://x bookworm main' },
  ]) {
    await expect(build(options)).rejects.toMatchObject({ code: 'invalid_request' })
  }
})
