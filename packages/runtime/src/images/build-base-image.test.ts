import { execFile } from 'node:child_process'
import { readdir, readFile, readlink, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeEach, expect, it } from 'vitest'
import { buildBaseImage } from './build-base-image.ts'
import { needs, openTestStore } from './testing/test-store.ts'

const BUSYBOX = '/bin/busybox'

beforeEach((context) => needs(context, 'umoci', 'busybox'))

it('the base image is the same for the same busybox, and has what commands look for', async () => {
  await using one = await openTestStore()
  await using two = await openTestStore()
  const image = await buildBaseImage(one.store, { busyboxPath: BUSYBOX })
  expect((await buildBaseImage(two.store, { busyboxPath: BUSYBOX })).digest).toBe(image.digest)
  expect(image.names).toEqual(['base'])
  expect(image.config).toMatchObject({ workdir: '/', user: 'root', env: { PATH: expect.stringContaining('/usr/bin') } })

  const inside = (path: string) => join(image.rootfs, path)
  const modeOf = async (path: string) => (await stat(inside(path))).mode & 0o7777
  expect(await readFile(inside('bin/busybox'))).toEqual(await readFile(BUSYBOX))
  for (const applet of ['bin/sh', 'bin/cat', 'usr/bin/wc', 'usr/bin/[']) {
    expect(await readlink(inside(applet))).toBe('/bin/busybox')
  }
  expect(await readFile(inside('etc/passwd'), 'utf8')).toMatch(/^root:x:0:0:.*\napp:x:1000:1000:.*\nnobody:x:65534:/)
  expect(await readFile(inside('etc/hosts'), 'utf8')).toContain('localhost')
  expect([await modeOf('tmp'), await modeOf('root'), await modeOf('bin/busybox')]).toEqual([0o1777, 0o700, 0o755])
  for (const directory of ['dev', 'proc', 'sys', 'run', 'var/tmp', 'usr/local/bin']) {
    expect((await stat(inside(directory))).isDirectory()).toBe(true)
  }
  if (process.getuid?.() === 0) expect((await stat(inside('home/app'))).uid).toBe(1000)
})

it('commands run in it', async (context) => {
  if (process.getuid?.() !== 0) context.skip('chroot needs root')
  await using test = await openTestStore()
  const { rootfs } = await buildBaseImage(test.store, { busyboxPath: BUSYBOX, name: 'small' })
  const script = 'echo hello | wc -c; id -u app; expr 6 \\* 7'
  const { stdout } = await promisify(execFile)('/usr/sbin/chroot', [rootfs, '/bin/sh', '-c', script], {
    env: { PATH: '/bin:/usr/bin' },
  })
  expect(stdout).toBe('6\n1000\n42\n')
})

it('a program that is not a static busybox is refused', async () => {
  await using test = await openTestStore()
  const build = (busyboxPath: string) => buildBaseImage(test.store, { busyboxPath })
  await expect(build('/bin/nothing-here')).rejects.toMatchObject({ code: 'image_invalid' })
  await expect(build(await test.file('script', '#!/bin/sh\n'))).rejects.toMatchObject({ code: 'image_invalid' })
  await expect(build('/bin/ls')).rejects.toThrow('needs libraries')
  expect(await readdir(test.path('store/sha256'))).toEqual([])
})
