import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmod, copyFile, cp, mkdir, mkdtemp, readFile, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { promisify } from 'node:util'

/** A root filesystem with programs of this host, so that no distribution has to be fetched. */
export interface ProgramImage {
  /** To be sent as `rootfsTar`. */
  readonly tar: Buffer
  readonly sha256: string
  readonly python: string
  readonly node: string
}

const BUSYBOX = '/bin/busybox'
const FIND_PYTHON =
  'import os,sys,sysconfig as s;print(os.path.realpath(sys.executable),s.get_path("stdlib"),sep="\\n")'
const FIND_LIBRARIES = 'find "$1" -name "*.so" -exec ldd {} + ; ldd "$0"'
/** Of Python's library: what no test needs. */
const LEFT_OUT = /^(?:site-packages|dist-packages|test|tests|idlelib|tkinter|ensurepip|lib2to3|__pycache__|config-.*)$/

const run = async (command: string, ...args: string[]): Promise<string> =>
  (await promisify(execFile)(command, args, { maxBuffer: 16 * 1024 ** 2 })).stdout.trim()

/** Busybox, and of this host whichever of Python and Node is asked for; or why there is no such image. */
export const makeProgramImage = async (
  wanted: readonly ('python' | 'node')[],
): Promise<ProgramImage | { readonly skip: string }> => {
  const folder = await mkdtemp(join(tmpdir(), 'bramble-programs-'))
  try {
    const rootfs = join(folder, 'rootfs')
    for (const path of ['bin', 'etc', 'root', 'srv', 'usr/bin', 'var'])
      await mkdir(join(rootfs, path), { recursive: true })
    await mkdir(join(rootfs, 'tmp'))
    await chmod(join(rootfs, 'tmp'), 0o1777)
    await copyProgram(rootfs, BUSYBOX, BUSYBOX)
    for (const applet of (await run(BUSYBOX, '--list')).split('\n'))
      if (applet !== 'busybox') await symlink('busybox', join(rootfs, 'bin', applet))
    let python = ''
    if (wanted.includes('python')) {
      const found = await run('python3', '-c', FIND_PYTHON).catch(() => undefined)
      if (found === undefined) return { skip: 'this host has no python3' }
      const [program = '', library = ''] = found.split('\n')
      await copyProgram(rootfs, program, program, library)
      await cp(library, join(rootfs, library), {
        recursive: true,
        verbatimSymlinks: true,
        filter: (path) => !LEFT_OUT.test(basename(path)),
      })
      python = program
    }
    if (wanted.includes('node')) await copyProgram(rootfs, process.execPath, '/usr/bin/node')
    const tar = join(folder, 'rootfs.tar')
    await run('tar', '-C', rootfs, '--owner=0', '--group=0', '-cf', tar, '.')
    const bytes = await readFile(tar)
    return { tar: bytes, sha256: createHash('sha256').update(bytes).digest('hex'), python, node: '/usr/bin/node' }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** A program, and all the libraries that it and what is below `folder` need, where they are on this host. */
const copyProgram = async (rootfs: string, from: string, to: string, folder = '/nonexistent'): Promise<void> => {
  // It fails for what is static, and for what is not there.
  const linked = await run('sh', '-c', FIND_LIBRARIES, from, folder).catch(
    ({ stdout = '' }: { stdout?: string }) => stdout,
  )
  const libraries = new Set([...linked.matchAll(/(?:=> |^\s*)(\/\S+) \(0x/gm)].map(([, path = '']) => path))
  for (const [source, target] of [[from, to], ...[...libraries].map((path) => [path, path])] as [string, string][]) {
    await mkdir(join(rootfs, dirname(target)), { recursive: true })
    await copyFile(source, join(rootfs, target))
    await chmod(join(rootfs, target), 0o755)
  }
}
