import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, open as openFile, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { newId } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { endOf, outputOf } from '../testing/run-command.ts'
import { configOf } from '../testing/subject.ts'
import { oci } from './oci.ts'
import { endLauncher, useOciNodes } from './testing/oci-nodes.ts'

const run = promisify(execFile)
const MIB = 1024 * 1024

const nodes = useOciNodes()
const newLayer = (): string => newId('instance')
const namesIn = async (directory: string) => (await readdir(join(directory, 'oci'))).sort()

/** A node's directory with a layer in which `/root/file` is. Nothing runs there. */
const withLayer = async (directory: string): Promise<string> => {
  const layer = newLayer()
  const runtime = await nodes.open(directory)
  const sandbox = await runtime.create(configOf(nodes, { layer }))
  await outputOf(sandbox, 'echo kept > /root/file')
  await sandbox.destroy()
  await runtime.close()
  await endLauncher(directory)
  return layer
}

const fileOf = async (runtime: Awaited<ReturnType<typeof nodes.open>>, layer: string): Promise<string> => {
  await using sandbox = await runtime.create(configOf(nodes, { layer }))
  return await outputOf(sandbox, 'cat /root/file 2>/dev/null || echo none')
}

test('the disk is the same one after a start, and what is of no kept sandbox is not there', async (context) => {
  const directory = await nodes.directory(context)
  const layer = await withLayer(directory)
  const image = join(directory, 'oci/disk.img')
  const mounted = await mkdtemp(join(tmpdir(), 'bramble-disk-'))
  await run('mount', ['-o', 'loop', image, mounted])
  const half = newLayer()
  // As a launcher leaves them that is killed while it makes one.
  await run('btrfs', ['subvolume', 'create', join(mounted, newId('sandbox'))])
  await run('btrfs', ['subvolume', 'create', join(mounted, '.layers', half)])
  await mkdir(join(mounted, '.layers', half, 'work'))
  await run('umount', [mounted])
  await rm(mounted, { recursive: true })
  await writeFile(`${image}.new`, 'half an image')

  const notices: string[] = []
  const runtime = await nodes.open(directory, { onNotice: (text) => notices.push(text) })
  expect(await runtime.list()).toEqual([])
  expect((await runtime.layers.list()).sort()).toEqual([layer, half].sort())
  expect(await fileOf(runtime, layer)).toBe('kept\n')
  expect(await fileOf(runtime, half)).toBe('none\n')
  expect(notices).toEqual([])
})

test('a disk that cannot be mounted is moved aside and said, and a fresh one serves', async (context) => {
  const directory = await nodes.directory(context)
  const layer = await withLayer(directory)
  const file = await openFile(join(directory, 'oci/disk.img'), 'r+')
  // All three super blocks that fit (btrfs(5)).
  for (const at of [64 * 1024, 64 * MIB]) await file.write(Buffer.alloc(4096), 0, 4096, at)
  await file.close()

  const notices: string[] = []
  const runtime = await nodes.open(directory, { onNotice: (text) => notices.push(text) })
  const broken = (await namesIn(directory)).filter((name) => name.startsWith('disk.img.'))
  expect(broken).toEqual([expect.stringMatching(/^disk\.img\.broken-\d{8}T\d{6}Z$/)])
  expect(notices).toEqual([
    `the disk of the sandboxes could not be mounted, and is now ${join(directory, 'oci', broken[0] ?? '')}`,
  ])
  expect(await runtime.layers.list()).toEqual([])
  expect(await fileOf(runtime, layer)).toBe('none\n')
  await runtime.close()

  // It is said once, and the disk that is there now stays.
  const next = await nodes.open(directory, { onNotice: (text) => notices.push(text) })
  expect(notices).toHaveLength(1)
  expect(await next.layers.list()).toEqual([layer])
})

test('a disk that cannot be mounted stays where no other one can be made either', async (context) => {
  const directory = await nodes.directory(context)
  await withLayer(directory)
  const before = await namesIn(directory)
  const file = await openFile(join(directory, 'oci/disk.img'), 'r+')
  const block = Buffer.alloc(4096)
  await file.read(block, 0, 4096, 64 * 1024)
  await file.write(Buffer.alloc(4096), 0, 4096, 64 * 1024)
  // btrfs needs far more than that.
  const options = { binary: 'crun', diskBytes: MIB }
  expect(await oci(options)({ dataDirectory: directory })).toMatchObject({ available: false })
  expect(await namesIn(directory)).toEqual(before)
  await file.write(block, 0, 4096, 64 * 1024)
  await file.close()
  const runtime = await nodes.open(directory)
  expect(await runtime.layers.list()).toHaveLength(1)
})

test('without btrfs sandboxes run on tmpfs, and none is kept', async (context) => {
  const directory = await nodes.directory(context)
  const runtime = await nodes.open(directory, { diskBytes: 0 })
  expect(runtime.capabilities.keep).toBe(false)
  expect(await runtime.layers.list()).toEqual([])
  const kept = runtime.create(configOf(nodes, { layer: newLayer() }))
  await expect(kept).rejects.toMatchObject({ code: 'unsupported' })
  await using sandbox = await runtime.create(configOf(nodes))
  expect(await endOf(sandbox, 'echo fine > /root/file')).toBe(0)
})
