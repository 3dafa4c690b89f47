import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmod, chown, copyFile, mkdir, mkdtemp, open, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { LocalImage } from '../images/image-store.ts'

export interface TestImage extends LocalImage {
  [Symbol.asyncDispose](): Promise<void>
}

export interface TestImageOptions {
  /** Images of different variants have different digests, and `/etc/variant` with the word. */
  variant?: string
  busybox?: string
}

const PASSWD = `root:x:0:0:root:/root:/bin/sh
app:x:1000:1000:app:/home/app:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
`
const GROUP = `root:x:0:
staff:x:50:app
app:x:1000:
nogroup:x:65534:
`
const DIRECTORIES = ['bin', 'dev', 'etc', 'home/app', 'proc', 'root', 'sys', 'tmp', 'usr/bin', 'var/tmp']

/** Why `busybox` cannot be the root filesystem of a test image, or undefined. */
const whyUnusable = async (busybox: string): Promise<string | undefined> => {
  const file = await open(busybox).catch(() => undefined)
  if (!file) return `${busybox} is missing: install busybox-static`
  const { buffer, bytesRead } = await file.read(Buffer.alloc(4096), 0, 4096, 0)
  await file.close()
  // A dynamic program names its loader (PT_INTERP) in its first page; none of its libraries would be in the image.
  return buffer.subarray(0, bytesRead).includes('/ld-') ? `${busybox} is not static: install busybox-static` : undefined
}

/**
 * A small image for tests, in a temporary directory: busybox with its applets, users `root`, `app` (1000, also in group
 * `staff`) and `nobody`, a sticky `/tmp`, and some files to find wrong answers with. Disposing removes it.
 */
export const makeTestImage = async (options: TestImageOptions = {}): Promise<TestImage> => {
  const busybox = options.busybox ?? '/bin/busybox'
  const variant = options.variant ?? 'plain'
  const unusable = await whyUnusable(busybox)
  if (unusable) throw new Error(unusable)
  const base = await mkdtemp(join(tmpdir(), 'bramble-test-image-'))
  const rootfs = join(base, 'rootfs')
  // A mkdtemp directory is 0700: a user namespace's root must be able to reach the files below.
  await chmod(base, 0o755)
  for (const directory of DIRECTORIES) await mkdir(join(rootfs, directory), { recursive: true, mode: 0o755 })
  await chmod(join(rootfs, 'tmp'), 0o1777)
  await chmod(join(rootfs, 'var/tmp'), 0o1777)
  await chmod(join(rootfs, 'root'), 0o700)
  await copyFile(busybox, join(rootfs, 'bin/busybox'))
  await chmod(join(rootfs, 'bin/busybox'), 0o755)
  const applets = (await promisify(execFile)(busybox, ['--list'])).stdout.trim().split('\n')
  for (const applet of applets) if (applet !== 'busybox') await symlink('busybox', join(rootfs, 'bin', applet))
  const files = {
    'etc/passwd': PASSWD,
    'etc/group': GROUP,
    'etc/hostname': 'image\n',
    'etc/variant': `${variant}\n`,
    'etc/not-executable': '#!/bin/sh\nexit 0\n',
    'home/app/hello.txt': 'hello from the image\n',
  }
  for (const [path, content] of Object.entries(files)) await writeFile(join(rootfs, path), content, { mode: 0o644 })
  if (process.getuid?.() === 0)
    for (const path of ['home/app', 'home/app/hello.txt']) await chown(join(rootfs, path), 1000, 1000)

  const bytes = await readFile(busybox)
  const digest = createHash('sha256')
    .update(bytes)
    .update(JSON.stringify([DIRECTORIES, applets, files]))
    .digest('hex')
  return {
    digest: `sha256:${digest}`,
    names: [`test/busybox:${variant}`],
    source: busybox,
    sizeBytes: bytes.length,
    createdAt: new Date().toISOString(),
    config: { env: { PATH: '/usr/local/bin:/usr/bin:/bin' }, workdir: '/', user: 'root' },
    rootfs,
    [Symbol.asyncDispose]: () => rm(base, { recursive: true, force: true }),
  }
}
