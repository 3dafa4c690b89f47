import { execFile, spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { chmod, copyFile, cp, mkdir, rm, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { makeTestImage, type TestImage } from '@bramble/runtime/testing'

const run = async (command: string, ...args: string[]): Promise<string> =>
  (await promisify(execFile)(command, args, { maxBuffer: 16 * 1024 ** 2 })).stdout.trim()

const WITH_REGISTRY = fileURLToPath(new URL('with-registry.mjs', import.meta.url))
const FIND_PYTHON =
  'import os,pip,sys,sysconfig as s;print(os.path.realpath(sys.executable),s.get_path("stdlib"),os.path.dirname(pip.__file__),sep="\\n")'
const FIND_LIBRARIES = 'find "$1" -name "*.so" -exec ldd {} + ; ldd "$0"'

/**
 * The test image with this host's Node, npm, and, where it has pip, Python; so that no distribution has to be fetched. In `/srv`
 * lies what `/srv/with-registry.mjs` serves: npm's `alpha`, which needs `beta`, and Python's `demo`.
 */
export interface ToolImage extends TestImage {
  readonly npm: readonly string[]
  /** Undefined: this host has no Python with pip. */
  readonly python: string | undefined
}

/** Why there is no npm to take, or the image. */
export const makeToolImage = async (): Promise<ToolImage | { readonly skip: string }> => {
  const found = await run('sh', '-c', 'readlink -f "$(command -v npm)"').catch(() => '')
  const npm = dirname(dirname(found))
  // Debian's package has its parts elsewhere.
  if (!existsSync(join(npm, 'node_modules/cacache'))) return { skip: 'there is no npm that is all in one directory' }
  const image = await makeTestImage()
  const { rootfs } = image
  await copyProgram(rootfs, process.execPath, '/usr/bin/node', '/nonexistent')
  await copyTree(npm, join(rootfs, 'usr/lib/npm'))
  const python = await copyPython(rootfs)
  await writePackages(join(rootfs, 'srv'), python !== undefined)
  return {
    ...image,
    digest: `sha256:${createHash('sha256').update(randomBytes(32)).digest('hex')}`,
    npm: ['/usr/bin/node', '/usr/lib/npm/bin/npm-cli.js'],
    python,
  }
}

const copyTree = (from: string, to: string, skipped: readonly string[] = []): Promise<void> =>
  cp(from, to, { recursive: true, verbatimSymlinks: true, filter: (path) => !skipped.includes(basename(path)) })

/** A program, and all the libraries that it and what is below `folder` need, where they are on this host. */
const copyProgram = async (rootfs: string, from: string, to: string, folder: string): Promise<void> => {
  const wanted = await run('sh', '-c', FIND_LIBRARIES, from, folder).catch((error: { stdout?: string }) =>
    String(error.stdout),
  )
  const libraries = new Set([...wanted.matchAll(/(?:=> |^\s*)(\/\S+) \(0x/gm)].map(([, path = '']) => path))
  for (const [source, target] of [[from, to], ...[...libraries].map((path) => [path, path])] as [string, string][]) {
    await mkdir(join(rootfs, dirname(target)), { recursive: true })
    await copyFile(source, join(rootfs, target))
    await chmod(join(rootfs, target), 0o755)
  }
}

const copyPython = async (rootfs: string): Promise<string | undefined> => {
  const found = spawnSync('python3', ['-c', FIND_PYTHON], { encoding: 'utf8' })
  const [program, library, pip] = (found.stdout ?? '').trim().split('\n')
  if (found.status !== 0 || program === undefined || library === undefined || pip === undefined) return undefined
  await copyProgram(rootfs, program, program, library)
  // Wherever it lies, all users have it.
  await chmod(join(rootfs, 'root'), 0o711)
  await copyTree(library, join(rootfs, library), ['site-packages', 'dist-packages', 'test', 'idlelib', '__pycache__'])
  await copyTree(pip, join(rootfs, library, 'pip'), ['__pycache__'])
  return program
}

const writePackages = async (srv: string, withPython: boolean): Promise<void> => {
  const work = join(srv, 'work')
  for (const folder of ['npm', 'npm-manifests', 'wheels', 'evil']) await mkdir(join(srv, folder), { recursive: true })
  const pack = async (name: string, says: string, dependencies: Record<string, string>, to: string): Promise<void> => {
    await mkdir(join(work, 'package'), { recursive: true })
    const manifest = JSON.stringify({ name, version: '1.0.0', main: 'index.js', dependencies })
    await writeFile(join(work, 'package/package.json'), manifest)
    await writeFile(join(srv, `npm-manifests/${name}.json`), manifest)
    await writeFile(join(work, 'package/index.js'), says)
    await run('tar', '-czf', join(srv, to), '-C', work, 'package')
  }
  await pack('beta', 'module.exports = "beta"', {}, 'npm/beta-1.0.0.tgz')
  await pack('alpha', 'module.exports = "alpha and " + require("beta")', { beta: '1.0.0' }, 'npm/alpha-1.0.0.tgz')
  await pack('beta', 'module.exports = "evil"', {}, 'evil/beta-1.0.0.tgz')
  if (withPython)
    for (const [folder, says] of [
      ['wheels', 'good'],
      ['evil', 'evil'],
    ])
      await run('python3', '-c', MAKE_WHEEL, join(srv, `${folder}/demo-1.0-py3-none-any.whl`), says ?? '')
  await copyFile(WITH_REGISTRY, join(srv, 'with-registry.mjs'))
  await rm(work, { recursive: true })
  await run('chmod', '-R', 'a+rX', srv)
}

const MAKE_WHEEL = `
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w') as z:
    z.writestr('demo.py', 'print(%r)\\n' % sys.argv[2])
    z.writestr('demo-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: demo\\nVersion: 1.0\\n')
    z.writestr('demo-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    z.writestr('demo-1.0.dist-info/RECORD', 'demo.py,,\\ndemo-1.0.dist-info/METADATA,,\\ndemo-1.0.dist-info/WHEEL,,\\ndemo-1.0.dist-info/RECORD,,\\n')
`
