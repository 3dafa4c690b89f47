import { createHash } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openTestNode, type TestNode } from '../test/test-node.ts'
import { Bramble } from './index.ts'

let node: TestNode
let bramble: Bramble
beforeAll(async () => {
  node = await openTestNode()
  bramble = new Bramble({ url: node.url, apiKey: node.key })
})
afterAll(() => node[Symbol.asyncDispose]())

const bytes = new TextEncoder().encode('the bytes of a blob\n')
const hash = createHash('sha256').update(bytes).digest('hex')

test('a blob is put as a whole or as a stream, read back, given to a command, listed and let go of', async () => {
  const counts: number[] = []
  const put = await bramble.blobs.put(bytes, { onBytes: (count) => counts.push(count) })
  expect(put).toMatchObject({ hash, sizeBytes: bytes.length, origin: 'put' })
  expect(counts).toEqual([bytes.length])
  const halves = async function* () {
    yield bytes.subarray(0, 5)
    yield bytes.subarray(5)
  }
  expect(await bramble.blobs.put(halves(), { expect: hash, onBytes: (count) => counts.push(count) })).toMatchObject({
    hash,
  })
  expect(counts.slice(1).reduce((sum, count) => sum + count, 0)).toBe(bytes.length)
  await expect(bramble.blobs.put('other bytes', { expect: hash })).rejects.toMatchObject({ code: 'blob_corrupt' })

  expect(await bramble.blobs.read(hash)).toEqual(bytes)
  expect(await bramble.blobs.read(hash, { offset: 4, length: 5 })).toEqual(bytes.subarray(4, 9))
  expect(await bramble.blobs.read(hash, { length: 0 })).toEqual(new Uint8Array(0))
  const { stdout } = await bramble.execute('cat /tmp/in').file('/tmp/in', { blob: hash }).send()
  expect(stdout).toBe('the bytes of a blob\n')
  expect((await bramble.blobs.list().all()).map((blob) => blob.hash as string)).toContain(hash)
  await bramble.blobs.remove(hash)
  await expect(bramble.blobs.read(hash)).rejects.toMatchObject({ code: 'blob_not_found' })
})

test('a cached result is given again until it is forgotten', async () => {
  const ask = () => bramble.execute('echo kept').cached({ ttlMs: 600_000 }).label('kind', 'test').send()
  const first = await ask()
  expect(first).toMatchObject({ cached: false, stdout: 'kept\n' })
  expect(await ask()).toMatchObject({ cached: true, stdout: 'kept\n' })
  expect(await bramble.cache.stats()).toMatchObject({ entries: 1, hits: 1 })
  expect(await bramble.cache.clear({ label: 'kind=other' })).toBe(0)
  expect(await bramble.cache.clear({ key: first.inputHash })).toBe(1)
  expect((await ask()).cached).toBe(false)
  expect(await bramble.cache.clear()).toBe(1)
})
