import { mkdtemp, readdir, readFile, rm, statfs } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { receiveArchive } from './receive-archive.ts'

const setUp = async () => {
  const uploadDirectory = await mkdtemp(join(tmpdir(), 'bramble-uploads-'))
  onTestFinished(() => rm(uploadDirectory, { recursive: true, force: true }))
  const options = { uploadDirectory, limits: { maxUploadBytes: 1000 }, held: { uploadBytes: 0 } }
  async function* body(bytes: number) {
    for (let at = 0; at < bytes; at += 100) yield Buffer.alloc(100, 'x')
  }
  const receive = (bytes: number) => receiveArchive(body(bytes), options, new AbortController().signal)
  return { options, receive, files: () => readdir(uploadDirectory) }
}

test('an archive is there until it is disposed of, and counts as long', async () => {
  const { options, receive, files } = await setUp()
  const archive = await receive(500)
  expect((await readFile(archive.path)).length).toBe(500)
  expect(options.held.uploadBytes).toBe(500)
  await archive[Symbol.asyncDispose]()
  await archive[Symbol.asyncDispose]()
  expect(options.held.uploadBytes).toBe(0)
  expect(await files()).toEqual([])
})

test('one that is too large, or one too many for the disk, leaves nothing', async () => {
  const { options, receive, files } = await setUp()
  await expect(receive(1100)).rejects.toMatchObject({ code: 'body_too_large' })
  expect(options.held.uploadBytes).toBe(0)
  const { bavail, bsize } = await statfs(options.uploadDirectory)
  // What others have of it is as much as is free, and more.
  const others = 2 * bavail * bsize
  options.held.uploadBytes = others
  await expect(receive(500)).rejects.toMatchObject({ code: 'queue_full' })
  expect(options.held.uploadBytes).toBe(others)
  expect(await files()).toEqual([])
})
