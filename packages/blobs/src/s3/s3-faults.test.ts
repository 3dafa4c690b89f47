import { ListMultipartUploadsCommand, ListObjectsV2Command } from '@aws-sdk/client-s3'
import { describe, expect, onTestFinished, type TestContext, test } from 'vitest'
import { bytesOf, hashOf, noise, text } from '../testing/bytes.ts'
import { blobKeyOf, damageObject } from '../testing/damage-object.ts'
import { type Fault, openFaultProxy, type ProxiedRequest } from '../testing/fault-proxy.ts'
import { useS3Server } from '../testing/s3-subject.ts'
import type { S3Limits } from './s3-connection.ts'
import { s3Store } from './s3-store.ts'
import { parseObjectStoreUrl } from './s3-url.ts'

const MiB = 1024 * 1024
const server = useS3Server()

/** Short, where the fault lasts: what is tried is that there is an end. */
const impatient: Partial<S3Limits> = { idleMs: 100, requestMs: 300, attempts: 3 }

const open = async (context: TestContext, limits: Partial<S3Limits> = {}) => {
  const real = server(context)
  const bucket = await real.newBucket()
  const proxy = await openFaultProxy(real.endpoint)
  const location = parseObjectStoreUrl(real.url(bucket, proxy.endpoint), {})
  const store = s3Store({ location, limits: { pauseMs: 5, ...limits } })
  const client = real.client()
  onTestFinished(async () => {
    await store.close()
    await proxy.close()
  })
  const keys = async (): Promise<string[]> => {
    const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket: bucket }))
    return Contents.map(({ Key = '' }) => Key)
  }
  const uploads = async (): Promise<number> =>
    ((await client.send(new ListMultipartUploadsCommand({ Bucket: bucket }))).Uploads ?? []).length
  return { store, proxy, bucket, client, location, keys, uploads }
}

/** The fault, for the first `count` requests that match. */
const first =
  (count: number, fault: Fault, matches: (request: ProxiedRequest) => boolean = () => true) =>
  (request: ProxiedRequest): Fault | undefined =>
    matches(request) && count-- > 0 ? fault : undefined

const unavailable = { code: 'store_unavailable', retryable: true }

describe('what passes, is waited for', () => {
  const faults: Record<string, Fault> = {
    'a cut connection': { kind: 'cut' },
    'status 500': { kind: 'status', status: 500, code: 'InternalError' },
    'status 503': { kind: 'status', status: 503, code: 'SlowDown' },
    'no answer': { kind: 'hang' },
    'an answer that never came': { kind: 'swallow' },
    'a body that is cut': { kind: 'truncate', bytes: 3, silent: false },
    'a body that stops': { kind: 'stall', bytes: 3 },
  }
  for (const [name, fault] of Object.entries(faults))
    test(name, async (context) => {
      const { store, proxy } = await open(context, { idleMs: 1000 })
      for (const bytes of [text(3000), noise(9 * MiB)]) {
        proxy.fault = first(2, fault, ({ method }) => method !== 'GET' || fault.kind !== 'truncate')
        const { hash } = await store.put(bytes)
        proxy.fault = first(2, fault)
        expect((await bytesOf(await store.get(hash))).equals(bytes)).toBe(true)
        proxy.fault = first(2, fault)
        await store.names.set('name', Buffer.from('value'))
        proxy.fault = first(2, fault)
        expect(Buffer.from((await store.names.get('name')) ?? []).toString()).toBe('value')
      }
    })
})

describe('what lasts ends in bounded time, and says why', () => {
  const faults: Record<string, [Fault | undefined, RegExp]> = {
    'nothing listens': [undefined, /ECONNREFUSED/],
    'no answer': [{ kind: 'hang' }, /no answer within 300 ms|TimeoutError/],
    'status 500': [{ kind: 'status', status: 500, code: 'InternalError' }, /status 500, InternalError/],
    'status 403': [{ kind: 'status', status: 403, code: 'AccessDenied' }, /status 403, AccessDenied/],
    'slower than it may be': [{ kind: 'slow', delayMs: 5000 }, /no answer within 300 ms|TimeoutError/],
  }
  for (const [name, [fault, reason]] of Object.entries(faults))
    test(name, async (context) => {
      const { store, proxy, location } = await open(context, impatient)
      const { hash } = await store.put(text(3000))
      if (fault) proxy.fault = () => fault
      else await proxy.down()
      const expected = { ...unavailable, detail: expect.stringMatching(reason) }
      await expect(store.put(text(10))).rejects.toMatchObject(expected)
      await expect(store.put(noise(9 * MiB))).rejects.toMatchObject(expected)
      await expect(store.get(hash)).rejects.toMatchObject(unavailable)
      await expect(store.stat(hash)).rejects.toMatchObject(unavailable)
      await expect(store.names.get('name')).rejects.toMatchObject(unavailable)
      await expect(store.names.set('name', text(3))).rejects.toMatchObject(expected)
      await expect(store.check()).rejects.toMatchObject(expected)
      await expect(store.check()).rejects.toThrow(location.bucket)
      await expect(store.check()).rejects.not.toThrow('bramble-tests-secret')
      proxy.fault = undefined
      await proxy.up()
      expect((await bytesOf(await store.get(hash))).equals(text(3000))).toBe(true)
      await store.check()
    })

  test('an abort is not waited for', async (context) => {
    const { store, proxy } = await open(context)
    proxy.fault = () => ({ kind: 'hang' })
    const abort = new AbortController()
    const asked = [store.put(text(10), abort), store.stat(hashOf(text(10)), abort), store.names.get('name', abort)]
    const rejected = Promise.all(asked.map((each) => expect(each).rejects.toThrow('enough')))
    abort.abort(new Error('enough'))
    await rejected
  })

  test('a bucket that is not there is said', async (context) => {
    const { location } = await open(context)
    await using store = s3Store({ location: { ...location, bucket: 'no-such-bucket' } })
    await expect(store.put(text(10))).rejects.toMatchObject({
      ...unavailable,
      detail: expect.stringContaining('NoSuchBucket'),
    })
    await expect(store.get(hashOf(text(10)))).rejects.toMatchObject(unavailable)
  })
})

describe('a server that lies', () => {
  test.for([3000, 5 * MiB])('%i bytes with another bit', async (size, context) => {
    const { store, proxy } = await open(context)
    const bytes = noise(size)
    const { hash } = await store.put(bytes)
    for (const at of [0, 100, 2500]) {
      proxy.fault = ({ method }) => (method === 'GET' ? { kind: 'flip', at, of: 'answer' } : undefined)
      const read = async () => bytesOf(await store.get(hash))
      await expect(read()).rejects.toMatchObject({ code: 'blob_corrupt', detail: expect.stringMatching(/in s3/) })
    }
    proxy.fault = undefined
    expect((await bytesOf(await store.get(hash))).equals(bytes)).toBe(true)
  })

  test('fewer bytes than there are', async (context) => {
    const { store, proxy } = await open(context, { attempts: 2 })
    for (const bytes of [noise(3000), noise(5 * MiB)]) {
      const { hash } = await store.put(bytes)
      proxy.fault = ({ method }) => (method === 'GET' ? { kind: 'truncate', bytes: 1000, silent: true } : undefined)
      const read = async () => bytesOf(await store.get(hash))
      // The rest may come another time.
      await expect(read()).rejects.toMatchObject(unavailable)
      proxy.fault = undefined
      expect((await bytesOf(await store.get(hash))).equals(bytes)).toBe(true)
    }
  })

  test('the body of another blob, and the value of another name', async (context) => {
    const { store, proxy, bucket } = await open(context)
    const [mine, other] = [await store.put(text(3000)), await store.put(text(3000, 7))]
    await store.names.set('mine', Buffer.from('mine'))
    await store.names.set('other', Buffer.from('mine'))
    const answer = (path: string) => (): Fault => ({ kind: 'other', path: `/${bucket}/${path}` })
    proxy.fault = answer(blobKeyOf(other.hash))
    const read = async () => bytesOf(await store.get(mine.hash))
    await expect(read()).rejects.toMatchObject({ code: 'blob_corrupt' })
    proxy.fault = answer('nodes/names/other%21')
    await expect(store.names.get('mine')).rejects.toMatchObject({ code: 'blob_corrupt' })
  })

  test('what it spoiled on the way in is found, and written again', async (context) => {
    const { store, client, bucket } = await open(context)
    const bytes = noise(9 * MiB)
    const { hash } = await store.put(bytes)
    await damageObject(client, bucket, blobKeyOf(hash))
    const read = async () => bytesOf(await store.get(hash))
    await expect(read()).rejects.toMatchObject({ code: 'blob_corrupt' })
    await store.put(bytes)
    expect((await read()).equals(bytes)).toBe(true)
  })
})

describe('an upload in parts', () => {
  test('leaves nothing when it fails', async (context) => {
    const { store, proxy, keys, uploads } = await open(context, { attempts: 2 })
    proxy.fault = ({ method, path }) =>
      method === 'PUT' && path.includes('partNumber=2') ? { kind: 'status', status: 403, code: 'No' } : undefined
    await expect(store.put(noise(20 * MiB))).rejects.toMatchObject(unavailable)
    expect([await keys(), await uploads()]).toEqual([[], 0])
  })

  test('leaves nothing when it is aborted, or is not what was expected', async (context) => {
    const { store, keys, uploads } = await open(context)
    const abort = new AbortController()
    const source = async function* () {
      yield noise(20 * MiB)
      abort.abort(new Error('enough'))
      yield noise(20 * MiB)
    }
    await expect(store.put(source(), abort)).rejects.toThrow('enough')
    await expect(store.put(noise(20 * MiB), { expect: hashOf(text(1)) })).rejects.toMatchObject({
      code: 'blob_corrupt',
    })
    expect([await keys(), await uploads()]).toEqual([[], 0])
  })

  test('is complete where the answer to that is lost', async (context) => {
    const { store, proxy, keys, uploads } = await open(context)
    const bytes = noise(20 * MiB)
    proxy.fault = first(
      1,
      { kind: 'swallow' },
      ({ method, path }) => method === 'POST' && path.includes('uploadId') && !path.includes('uploads'),
    )
    const { hash } = await store.put(bytes)
    expect(await keys()).toEqual([blobKeyOf(hash)])
    expect(await uploads()).toBe(0)
    expect((await bytesOf(await store.get(hash))).equals(bytes)).toBe(true)
  })
})
