import { createWriteStream } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { type Header, type Pack, pack } from 'tar-stream'
import type { Abortable } from '../runtime.ts'
import { imageInvalid } from './image-errors.ts'
import type { ImageRunConfig, ImageStore, LocalImage, OnImportProgress } from './image-store.ts'
import { lastWords, runTool } from './run-tool.ts'

export interface BuildBaseOptions extends Abortable {
  /** A busybox that needs no library (Debian: busybox-static, `/bin/busybox`). */
  readonly busyboxPath: string
  /** Default `base`. */
  readonly name?: string
  readonly onProgress?: OnImportProgress
}

const CONFIG: ImageRunConfig = {
  env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' },
  workdir: '/',
  user: 'root',
}

const FILES: Readonly<Record<string, string>> = {
  'etc/passwd': `root:x:0:0:root:/root:/bin/sh
app:x:1000:1000:app:/home/app:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
`,
  'etc/group': `root:x:0:
tty:x:5:
staff:x:50:
app:x:1000:
nogroup:x:65534:
`,
  'etc/hosts': '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n',
  'etc/nsswitch.conf': 'passwd: files\ngroup: files\nhosts: files dns\n',
  'etc/profile': 'export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n',
  'etc/shells': '/bin/sh\n/bin/ash\n',
}

/** Path, mode, owner. */
const DIRECTORIES: readonly (readonly [string, number, number])[] = [
  ['bin', 0o755, 0],
  ['dev', 0o755, 0],
  ['etc', 0o755, 0],
  ['home', 0o755, 0],
  ['home/app', 0o755, 1000],
  ['lib', 0o755, 0],
  ['mnt', 0o755, 0],
  ['opt', 0o755, 0],
  ['proc', 0o555, 0],
  ['root', 0o700, 0],
  ['run', 0o755, 0],
  ['sbin', 0o755, 0],
  ['srv', 0o755, 0],
  ['sys', 0o555, 0],
  ['tmp', 0o1777, 0],
  ['usr', 0o755, 0],
  ['usr/bin', 0o755, 0],
  ['usr/lib', 0o755, 0],
  ['usr/local', 0o755, 0],
  ['usr/local/bin', 0o755, 0],
  ['usr/local/sbin', 0o755, 0],
  ['usr/sbin', 0o755, 0],
  ['var', 0o755, 0],
  ['var/cache', 0o755, 0],
  ['var/lib', 0o755, 0],
  ['var/log', 0o755, 0],
  ['var/tmp', 0o1777, 0],
]

/** One time for everything (2020-01-01), so that equal bytes give an equal digest. */
const MTIME = new Date('2020-01-01T00:00:00Z')
const APPLET = /^(bin|sbin|usr\/bin|usr\/sbin)\/[A-Za-z0-9_.[+-]{1,64}$/
/** Applets that change or leave the machine have no place in a sandbox, whose agent is its init. */
const LEFT_OUT = new Set(['init', 'linuxrc', 'reboot', 'poweroff', 'halt'])

/**
 * Makes the image `base`: busybox, its applets as symbolic links, and the few files that programs look for. The digest
 * depends on the busybox alone: the same program gives the same image on every host.
 */
export const buildBaseImage = async (store: ImageStore, options: BuildBaseOptions): Promise<LocalImage> => {
  const { busyboxPath, name = 'base', signal, onProgress } = options
  onProgress?.({ phase: 'build', message: `collecting ${busyboxPath}` })
  const busybox = await readFile(busyboxPath).catch((cause) => {
    throw imageInvalid(`${busyboxPath} cannot be read (${cause.code}); Debian's package is busybox-static`, cause)
  })
  if (needsLibraries(busybox)) throw imageInvalid(`${busyboxPath} needs libraries; Debian's package is busybox-static`)
  const { exitCode, stdout, message } = await runTool(busyboxPath, ['--list-full'], { signal })
  if (exitCode !== 0) throw imageInvalid(`${busyboxPath} --list-full failed: ${lastWords(message)}`)
  const applets = stdout
    .toString('utf8')
    .split('\n')
    .filter((path) => APPLET.test(path) && !LEFT_OUT.has(path.split('/').at(-1) ?? ''))
  const work = await mkdtemp(join(tmpdir(), 'bramble-base-'))
  try {
    const path = join(work, 'base.tar')
    const archive = pack()
    writeTree(archive, busybox, applets)
    await pipeline(archive, createWriteStream(path), signal ? { signal } : {})
    return await store.import({ kind: 'rootfsTar', path, config: CONFIG }, { name, signal, onProgress })
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}

const writeTree = (archive: Pack, busybox: Buffer, applets: readonly string[]): void => {
  const add = (header: Partial<Header> & { name: string }, content: string | Buffer = '') =>
    archive.entry({ uid: 0, gid: 0, uname: '', gname: '', mtime: MTIME, ...header }, content)
  add({ name: './', type: 'directory', mode: 0o755 })
  for (const [name, mode, owner] of DIRECTORIES) {
    add({ name: `${name}/`, type: 'directory', mode, uid: owner, gid: owner })
  }
  add({ name: 'bin/busybox', mode: 0o755 }, busybox)
  for (const name of [...new Set([...applets, 'bin/sh'])].sort()) {
    if (name !== 'bin/busybox') add({ name, type: 'symlink', mode: 0o777, linkname: '/bin/busybox' })
  }
  for (const [name, content] of Object.entries(FILES)) add({ name, mode: 0o644 }, content)
  archive.finalize()
}

/** Whether an ELF program names a loader (a program header of type PT_INTERP, elf(5)). */
const needsLibraries = (program: Buffer): boolean => {
  if (program.length < 64 || program.readUInt32BE(0) !== 0x7f454c46) return true
  const wide = program[4] === 2
  const big = program[5] === 2
  const u16 = (at: number) => (big ? program.readUInt16BE(at) : program.readUInt16LE(at))
  const u32 = (at: number) => (big ? program.readUInt32BE(at) : program.readUInt32LE(at))
  const table = wide ? (big ? Number(program.readBigUInt64BE(32)) : Number(program.readBigUInt64LE(32))) : u32(28)
  const entryBytes = u16(wide ? 54 : 42)
  const count = u16(wide ? 56 : 44)
  for (let i = 0; i < count; i++) {
    const at = table + i * entryBytes
    if (at + 4 > program.length || u32(at) === 3) return true
  }
  return false
}
