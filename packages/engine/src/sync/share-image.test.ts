import { execFile } from 'node:child_process'
import { chmod, chown, link, mkdir, symlink, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createLayerFiles, type ImageStore, type LocalImage, openImageStore } from '@bramble/runtime'
import { expect, onTestFinished, type TestContext, test } from 'vitest'
import { findShared, type ImageSharing, imageReferences, obtainImage, shareImage } from './share-image.ts'
import { newDirectory, openNodeStore, useObjectStore } from './testing.ts'

const objectStore = useObjectStore()
const execute = promisify(execFile)

const skipUnlessRoot = (context: TestContext): void => {
  if (process.getuid?.() === 0) return
  if (process.env.REQUIRE_DRIVERS?.split(',').includes('oci')) throw new Error('only root reads images whole')
  context.skip('only root reads images whole')
}

/** A root filesystem of everything that one may hold. */
const makeRootfs = async (): Promise<string> => {
  const root = join(await newDirectory(), 'rootfs')
  await mkdir(join(root, 'bin'), { recursive: true })
  await mkdir(join(root, 'empty/deep'), { recursive: true })
  await writeFile(join(root, 'bin/tool'), Buffer.alloc(300_000, 'tool'))
  await chmod(join(root, 'bin/tool'), 0o4755)
  await link(join(root, 'bin/tool'), join(root, 'bin/other'))
  await symlink('../bin/tool', join(root, 'empty/link'))
  await writeFile(Buffer.concat([Buffer.from(`${root}/odd-`), Buffer.from([0xff, 0x20])]), 'odd')
  await chown(join(root, 'empty/deep'), 1000, 1001)
  await chmod(join(root, 'empty/deep'), 0o1777)
  await execute('mkfifo', [join(root, 'pipe')])
  await utimes(join(root, 'bin'), 1_000_000, 1_000_000)
  for (let i = 0; i < 50; i++) await writeFile(join(root, `file-${i}`), `content ${i}`)
  return root
}

interface Node {
  readonly sharing: ImageSharing
  readonly images: ImageStore
}

const openNode = async (url: string): Promise<Node> => {
  const blobs = await openNodeStore(url)
  const images = await openImageStore({ directory: join(await newDirectory(), 'images') })
  const files = createLayerFiles()
  onTestFinished(() => files.close())
  return { sharing: { blobs, images, files }, images }
}

const listOf = async ({ files }: ImageSharing, image: LocalImage): Promise<unknown[]> => {
  const all: unknown[] = []
  for await (const entry of files.entries(image.rootfs, { plain: true })) {
    const { version: _, ...rest } = { version: undefined, ...entry }
    const pieces: Uint8Array[] = []
    if (entry.type === 'file') for await (const piece of files.read(image.rootfs, entry.path)) pieces.push(piece)
    all.push({ ...rest, content: Buffer.concat(pieces).toString('latin1') })
  }
  return all
}

test('an image comes out of the store as it went in, on a node that never saw it', async (context) => {
  skipUnlessRoot(context)
  const url = await objectStore(context)
  const [one, other] = [await openNode(url), await openNode(url)]
  const config = { env: { A: 'b' }, workdir: '/bin', user: '1000' }
  const image = await one.images.import({ kind: 'rootfsDirectory', path: await makeRootfs(), config }, { name: 'mine' })
  await other.images.import({ kind: 'rootfsDirectory', path: await makeRootfs() }, { name: 'taken' })
  await expect(obtainImage(other.sharing, image.digest)).rejects.toMatchObject({ code: 'image_not_found' })

  const shared = await shareImage(one.sharing, image)
  await shared?.uploaded
  expect(await shareImage(one.sharing, image)).toBeUndefined()

  const [obtained, again] = await Promise.all([
    obtainImage(other.sharing, image.digest),
    obtainImage(other.sharing, image.digest),
  ])
  expect(again).toEqual(obtained)
  const { rootfs: _here, createdAt: _when, ...told } = image
  expect(obtained).toMatchObject(told)
  expect(other.images.resolve('mine').digest).toBe(image.digest)
  expect(await listOf(other.sharing, obtained)).toEqual(await listOf(one.sharing, image))
  expect((await listOf(one.sharing, image)).length).toBeGreaterThan(55)
})

test('its blobs are known, and its name leads nowhere else', async (context) => {
  skipUnlessRoot(context)
  const url = await objectStore(context)
  const [one, other] = [await openNode(url), await openNode(url)]
  const mine = await one.images.import({ kind: 'rootfsDirectory', path: await makeRootfs() }, { name: 'app' })
  const config = { user: '5' }
  const theirs = await other.images.import(
    { kind: 'rootfsDirectory', path: await makeRootfs(), config },
    { name: 'app' },
  )
  expect(theirs.digest).not.toBe(mine.digest)
  await (await shareImage(one.sharing, mine))?.uploaded
  const pointer = await findShared(other.sharing, mine.digest)
  if (!pointer) throw new Error('it is not shared')
  const needed = new Set<string>()
  for await (const hash of imageReferences(other.sharing.blobs, pointer)) needed.add(hash)
  expect(needed.size).toBeGreaterThan(2)
  for (const hash of needed) expect(await other.sharing.blobs.stat(hash as typeof pointer.manifest)).toBeDefined()
  await obtainImage(other.sharing, mine.digest)
  expect(other.images.resolve('app').digest).toBe(theirs.digest)
})
