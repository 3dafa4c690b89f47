import { memoryStore } from '@bramble/blobs'
import type { BlobHash } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { resultOf } from '../testing/test-network.ts'
import { openTenantBlobs } from './tenant-blobs.ts'

const { signal } = new AbortController()

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
  const { hash, sizeBytes } = await tenantBlobs.putResult(Buffer.from('out'), { signal })
  await expect(tenantBlobs.requireOfTenant('acme', hash)).rejects.toMatchObject({ code: 'blob_not_found' })
  await expect(tenantBlobs.requireInput(hash)).rejects.toMatchObject({ code: 'blob_not_found' })
  await tenantBlobs.show('acme', [{ result: namedResult(hash, sizeBytes) }, {}])
  await tenantBlobs.requireOfTenant('acme', hash)
  await expect(tenantBlobs.requireOfTenant('other', hash)).rejects.toMatchObject({ code: 'blob_not_found' })
})

test('what a result names has to be here, and as large as it says', async () => {
  const { tenantBlobs } = open()
  const { hash, sizeBytes } = await tenantBlobs.putResult(Buffer.from('out'), { signal })
  expect(await tenantBlobs.missing(resultOf('inline'))).toBeUndefined()
  expect(await tenantBlobs.missing(namedResult(hash, sizeBytes))).toBeUndefined()
  expect(await tenantBlobs.missing(namedResult(hash, sizeBytes + 1))).toBe(hash)
  const unknown = 'ab'.repeat(32) as BlobHash
  expect(await tenantBlobs.missing(namedResult(unknown, 1))).toBe(unknown)
})

test('what nobody may read any more is collected; what is read goes on', async () => {
  const { blobs, tenantBlobs, pass } = open()
  const kept = await tenantBlobs.putInput('acme', Buffer.from('kept'), { signal })
  const gone = await tenantBlobs.putResult(Buffer.from('gone'), { signal })
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
