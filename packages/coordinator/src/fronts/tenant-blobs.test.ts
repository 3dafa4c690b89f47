import { createHash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { memoryStore, openStore } from '@bramble/blobs'
import { useS3Server } from '@bramble/blobs/testing'
import type { BlobHash, NodeId } from '@bramble/protocol'
import { expect, onTestFinished, test } from 'vitest'
import { resultOf } from '../testing/test-network.ts'
import { openTenantBlobs } from './tenant-blobs.ts'

const { signal } = new AbortController()
const server = useS3Server()
const node = `0x${'1'.repeat(40)}` as NodeId

const open = () => {
  // The store's own clock is the real one, and what is young stays: time passes here only.
  let now = Date.now()
  const blobs = memoryStore()
  const tenantBlobs = openTenantBlobs({ blobs, ttlMs: 86_400_000, now: () => now })
  const pass = (ms: number): void => {
    now += ms
  }
  return { blobs, tenantBlobs, pass }
}

const namedResult = (hash: BlobHash, sizeBytes: number) => ({
  ...resultOf(''),
  stdout: { blob: hash, sizeBytes, sha256: hash },
})

test('a result’s blob is its tenant’s once it was shown, and nobody’s before', async () => {
  const { tenantBlobs } = open()
  const { hash, sizeBytes } = await tenantBlobs.putResult(node, Buffer.from('out'), { signal })
  await expect(tenantBlobs.requireOfTenant('acme', hash)).rejects.toMatchObject({ code: 'blob_not_found' })
  await expect(tenantBlobs.requireInput(hash)).rejects.toMatchObject({ code: 'blob_not_found' })
  await tenantBlobs.show('acme', [{ result: namedResult(hash, sizeBytes) }, {}])
  await tenantBlobs.requireOfTenant('acme', hash)
  await expect(tenantBlobs.requireOfTenant('other', hash)).rejects.toMatchObject({ code: 'blob_not_found' })
})

test('what a result names has to be here, and as large as it says', async () => {
  const { tenantBlobs } = open()
  const { hash, sizeBytes } = await tenantBlobs.putResult(node, Buffer.from('out'), { signal })
  expect(await tenantBlobs.missing(node, resultOf('inline'))).toBeUndefined()
  expect(await tenantBlobs.missing(node, namedResult(hash, sizeBytes))).toBeUndefined()
  expect(await tenantBlobs.missing(node, namedResult(hash, sizeBytes + 1))).toBe(hash)
  // Another node is not told that somebody put it, by the name of a result or by putting it again.
  const other = `0x${'2'.repeat(40)}` as NodeId
  expect(await tenantBlobs.missing(other, namedResult(hash, sizeBytes))).toBe(hash)
  const first = await tenantBlobs.putResult(node, Buffer.from('again'), { signal })
  const second = await tenantBlobs.putResult(other, Buffer.from('again'), { signal })
  expect(Object.keys(second)).toEqual(Object.keys(first))
  const input = await tenantBlobs.putInput('acme', Buffer.from('a secret of acme'), { signal })
  expect(await tenantBlobs.missing(node, namedResult(input.hash, input.sizeBytes))).toBe(input.hash)
  const unknown = 'ab'.repeat(32) as BlobHash
  expect(await tenantBlobs.missing(node, namedResult(unknown, 1))).toBe(unknown)
})

test('what one coordinator took, another one has at once', async (context) => {
  const real = server(context)
  const objectStoreUrl = real.url(await real.newBucket())
  const [here, there] = await Promise.all(
    [0, 1].map(async () => {
      const directory = await mkdtemp(join(tmpdir(), 'bramble-blobs-'))
      const blobs = await openStore({ directory, objectStoreUrl })
      onTestFinished(async () => {
        await blobs.close()
        await rm(directory, { recursive: true })
      })
      return openTenantBlobs({ blobs, ttlMs: 86_400_000, now: Date.now })
    }),
  )
  const bytes = Buffer.alloc(100_000, 'a result')
  const hash = createHash('sha256').update(bytes).digest('hex') as BlobHash
  // It was asked for too early, and what was answered then is not remembered.
  expect(await there?.missing(node, namedResult(hash, bytes.length))).toBe(hash)
  await here?.putResult(node, bytes, { signal })
  expect(await there?.missing(node, namedResult(hash, bytes.length))).toBeUndefined()
  await here?.putInput('acme', bytes, { signal })
  await there?.requireOfTenant('acme', hash)
})

test('what nobody may read any more is collected; what is read goes on', async () => {
  const { blobs, tenantBlobs, pass } = open()
  const kept = await tenantBlobs.putInput('acme', Buffer.from('kept'), { signal })
  const gone = await tenantBlobs.putResult(node, Buffer.from('gone'), { signal })
  pass(80_000_000)
  await tenantBlobs.putInput('acme', Buffer.from('kept'), { signal })
  await tenantBlobs.collect(signal)
  expect(await blobs.stat(gone.hash)).toBeDefined()
  pass(10_000_000)
  await expect(tenantBlobs.requireInput(gone.hash)).rejects.toMatchObject({ code: 'blob_not_found' })
  await tenantBlobs.collect(signal)
  expect(await blobs.stat(gone.hash)).toBeUndefined()
  await tenantBlobs.requireOfTenant('acme', kept.hash)
  expect(await blobs.stat(kept.hash)).toBeDefined()
})
