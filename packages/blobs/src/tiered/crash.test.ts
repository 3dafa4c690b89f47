import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { BlobHash } from '@bramble/protocol'
import { expect, onTestFinished, type TestContext, test } from 'vitest'
import { fsStore } from '../fs/fs-store.ts'
import { s3Store } from '../s3/s3-store.ts'
import { parseObjectStoreUrl } from '../s3/s3-url.ts'
import { bytesOf, hashOf, listOf } from '../testing/bytes.ts'
import { killAtEveryStep } from '../testing/crash-steps.ts'
import { useS3Server } from '../testing/s3-subject.ts'
import { tieredStore } from './tiered-store.ts'

interface Fact {
  readonly put?: BlobHash
  readonly name?: string
  readonly value?: string | null
  readonly done?: boolean
}

const CHILD = join(import.meta.dirname, 'crash-child.ts')
const dayMs = 24 * 3_600_000
const server = useS3Server()

const openNode = async (directory: string, url: string) =>
  tieredStore({
    local: await fsStore({ directory }),
    shared: s3Store({ location: parseObjectStoreUrl(url, {}) }),
    directory: join(directory, 'tier'),
  })

/** The values of `a`, in order; what is there is the last that was told, or the one that was under way. */
const ORDER = [undefined, 'first', 'second', undefined, 'third']

const inspect = async (facts: readonly Fact[], directory: string, url: string): Promise<void> => {
  // The node comes back, and brings over what it had promised.
  await using next = await openNode(directory, url)
  await next.settled()
  // Another one has only the object store.
  const elsewhere = `${directory}-other`
  await using other = await openNode(elsewhere, url)
  for (const { put } of facts) if (put) expect(hashOf(await bytesOf(await other.get(put)))).toBe(put)
  const told = facts.filter(({ name }) => name === 'a').length
  for (const store of [next, other]) {
    const value = await store.names.get('a', { reach: 'now' })
    expect(ORDER.slice(told, told + 2)).toContain(value && Buffer.from(value).toString())
    if (facts.some(({ name }) => name === 'b')) expect(await store.names.get('b')).toBeDefined()
  }
  // No half blob is readable, whatever else is there.
  const location = parseObjectStoreUrl(url, {})
  await using shared = s3Store({ location, now: () => Date.now() + 2 * dayMs })
  for (const { hash } of await listOf(shared.list())) expect(hashOf(await bytesOf(await shared.get(hash)))).toBe(hash)
  await shared.sweep()
  expect(await shared.sweep()).toBe(0)
}

test('killed at every step of the queue and of uploads', async (context: TestContext) => {
  const real = server(context)
  const root = await mkdtemp(join(tmpdir(), 'bramble-tier-crash-'))
  onTestFinished(() => rm(root, { recursive: true, force: true }))
  const last = await killAtEveryStep<Fact>(CHILD, async (step) => {
    const directory = join(root, String(step))
    const url = real.url(await real.newBucket())
    return { words: [directory, url], inspect: (facts) => inspect(facts, directory, url) }
  })
  expect(last).toBeGreaterThan(25)
}, 240_000)
