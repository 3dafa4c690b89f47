import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Image, imageImportEventSchema, imageSchema } from '@bramble/protocol'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { allEvents, makeRootfsTar, openTestNode, problemOf, readEvents, type TestNode } from '../../test/test-node.ts'

let node: TestNode
beforeAll(async () => {
  node = await openTestNode({ gateway: { limits: { maxUploadBytes: 1_000_000 } } })
})
afterAll(() => node[Symbol.asyncDispose]())

const TAR = { 'content-type': 'application/x-tar' }
const upload = async (query: string, content: string, headers: Record<string, string> = {}) =>
  node.fetch(`/api/v1/images?${query}`, {
    method: 'POST',
    body: await readFile(await makeRootfsTar(node.directory, content)),
    headers: { ...TAR, ...headers },
  })
const list = async (): Promise<Image[]> =>
  ((await (await node.fetch('/api/v1/images')).json()) as { items: Image[] }).items
const uploadsLeft = () => readdir(join(node.directory, 'uploads'))

test('lists the images without telling where they lie', async () => {
  const [base] = await list()
  expect(imageSchema.strict().parse(base).names).toContain('base')
  expect(JSON.stringify(base)).not.toContain(node.directory)
})

test('imports an archive of the host by its path, runs it, and removes it', async () => {
  const rootfsTar = await makeRootfsTar(node.directory, 'by path')
  const response = await node.fetch('/api/v1/images', { json: { rootfsTar, name: 'by-path' } })
  expect(response.status).toBe(201)
  const image = imageSchema.parse(await response.json())
  const run = await node.fetch('/api/v1/execute', { json: { command: 'true', image: 'by-path' } })
  expect(await run.json()).toMatchObject({ image: image.digest, status: 'succeeded' })
  expect((await node.fetch(`/api/v1/images/${image.digest}`, { method: 'DELETE' })).status).toBe(204)
  expect((await list()).map(({ digest }) => digest)).not.toContain(image.digest)
  const again = await node.fetch(`/api/v1/images/${image.digest}`, { method: 'DELETE' })
  expect(await problemOf(again)).toMatchObject({ code: 'image_not_found' })
})

test('an image that a command runs on stays', async () => {
  const { digest } = imageSchema.parse(await (await upload('name=used', 'used')).json())
  const stream = await node.fetch('/api/v1/execute', {
    json: { command: 'sleep 60', image: 'used' },
    headers: { accept: 'text/event-stream' },
  })
  for await (const { event } of readEvents(stream))
    if (event === 'started') {
      const response = await node.fetch(`/api/v1/images/${digest}`, { method: 'DELETE' })
      expect(await problemOf(response)).toMatchObject({ status: 409, code: 'image_in_use' })
      break
    }
})

test('takes an archive as the body and leaves nothing of it behind', async () => {
  const response = await upload('format=rootfsTar&name=uploaded', 'uploaded')
  expect(response.status).toBe(201)
  expect(await response.json()).toMatchObject({
    names: [expect.stringContaining('uploaded')],
    source: 'rootfs tar upload',
  })
  expect(await uploadsLeft()).toEqual([])
})

test('tells the progress as events, and the image at last', async () => {
  const messages = await allEvents(await upload('name=told', 'told', { accept: 'text/event-stream' }))
  const events = messages.map(({ data }) => imageImportEventSchema.parse(data))
  expect(events[0]).toMatchObject({ type: 'progress', phase: 'upload' })
  expect(events.at(-1)).toMatchObject({ type: 'image', image: { names: [expect.stringContaining('told')] } })
  const phases = events.flatMap((event) => (event.type === 'progress' ? [event.phase] : []))
  expect(phases).toEqual(expect.arrayContaining(['upload', 'unpack', 'commit']))
  expect(events).toContainEqual(expect.objectContaining({ type: 'progress', fraction: expect.any(Number) }))
})

test('a request that fits no kind of source is told what the nearest lacks', async () => {
  const problem = await problemOf(await node.fetch('/api/v1/images', { json: { rootfsTar: '/x.tar' } }))
  expect(problem).toMatchObject({ code: 'invalid_request', issues: [{ path: 'name' }] })
})

test('an import that fails is a problem, or the last event', async () => {
  const json = { rootfsTar: join(node.directory, 'missing.tar'), name: 'missing' }
  expect(await problemOf(await node.fetch('/api/v1/images', { json }))).toMatchObject({ code: 'image_invalid' })
  const init = { method: 'POST', body: 'not a tar', headers: { ...TAR, accept: 'text/event-stream' } }
  const messages = await allEvents(await node.fetch('/api/v1/images?name=bad', init))
  expect(messages.at(-1)).toMatchObject({ event: 'error', data: { error: { code: 'image_invalid' } } })
  expect(await uploadsLeft()).toEqual([])
})

test('an archive past the limit is refused, said or not, and nothing of it stays', async () => {
  const body = Buffer.alloc(1_000_001)
  const said = await node.fetch('/api/v1/images?name=big', { method: 'POST', body, headers: TAR })
  expect(await problemOf(said)).toMatchObject({ status: 413, code: 'body_too_large' })
  const unsaid = await node.fetch('/api/v1/images?name=big', {
    method: 'POST',
    body: new Blob([body]).stream(),
    headers: TAR,
    duplex: 'half',
  } as RequestInit)
  expect(await problemOf(unsaid)).toMatchObject({ status: 413, code: 'body_too_large' })
  expect(await uploadsLeft()).toEqual([])
})

test.for([
  ['a rootfs without a name', '?format=rootfsTar', TAR],
  ['a format that is not one', '?format=zip&name=x', TAR],
  ['a name that is not one', '?name=UPPER', TAR],
  ['a parameter that is not one', '?name=x&tag=y', TAR],
  ['a query beside JSON', '?name=x', { 'content-type': 'application/json' }],
] as const)('refuses %s', async ([, query, headers]) => {
  const body = headers === TAR ? 'x' : '{"reference":"a"}'
  const response = await node.fetch(`/api/v1/images${query}`, { method: 'POST', body, headers })
  expect(await problemOf(response)).toMatchObject({ status: 400, code: 'invalid_request' })
})

test('pools are listed, and prewarmed until they are ready', async () => {
  const response = await node.fetch('/api/v1/prewarm', { json: { image: 'base', count: 2 } })
  expect(await response.json()).toMatchObject({ ready: 2, floor: 2, runtime: 'fake' })
  const pools = (await (await node.fetch('/api/v1/pools')).json()) as { items: { ready: number }[] }
  expect(pools.items).toContainEqual(expect.objectContaining({ ready: 2 }))
  const missing = await node.fetch('/api/v1/prewarm', { json: { image: 'nowhere', count: 1 } })
  expect(await problemOf(missing)).toMatchObject({ code: 'image_not_found' })
})
