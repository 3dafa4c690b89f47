import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { zstdCompressSync } from 'node:zlib'
import type { Instance, Problem, Snapshot } from '@bramble/protocol'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { connectStream } from './live-socket.ts'
import { type Entry, type Forgery, forge, type Member, readArchive, sha, writeArchive } from './time-archives.ts'
import { call, shellOf } from './time-node.ts'

/** Files that an enemy wrote are imported over HTTP: nothing changes, and no memory of theirs runs. */

let skip: string | undefined
let node: LiveNode
/** A tenant's key, without admin's rights. */
let key = ''
let genuine: Buffer
let members: Member[] = []

beforeAll(async () => {
  const opened = await openLiveNode({ checkpoint: true })
  if ('skip' in opened) {
    skip = opened.skip
    return
  }
  node = opened
  key = (await node.newKey({ tenant: 'enemy' })).key
  const box = await node.start({})
  await node.sh(box.id, 'mkdir /srv; echo content > /srv/file; ln /srv/file /srv/other')
  await shellOf(node, box.id).start()
  await shellOf(node, box.id).tell('a')
  const { id } = await call<Snapshot>(node, 'POST', 'snapshots', { instanceId: box.id, memory: true })
  genuine = (await node.ask('GET', `/api/v1/snapshots/${id}/export`)).body
  members = readArchive(genuine)
  await call(node, 'DELETE', `snapshots/${id}`)
  await call(node, 'DELETE', `instances/${box.id}`)
})
afterAll(() => node?.[Symbol.asyncDispose]())
beforeEach((context) => {
  if (skip !== undefined) context.skip(skip)
})

const send = (body: Buffer, query = '', by = key) =>
  node.ask('POST', `/api/v1/snapshots/import${query}`, { body, key: by })

/** What an import could have changed on the host. */
const traces = (): unknown => ({
  blobs: readdirSync(join(node.dataDirectory, 'blobs/blobs'), { recursive: true }).length,
  names: existsSync(join(node.dataDirectory, 'blobs/names/snapshots'))
    ? readdirSync(join(node.dataDirectory, 'blobs/names/snapshots'), { recursive: true })
    : [],
  staging: existsSync(join(node.dataDirectory, 'imports')) ? readdirSync(join(node.dataDirectory, 'imports')) : [],
  around: readdirSync(node.dataDirectory).filter((name) => name !== 'imports'),
  escaped: ['/tmp/escaped', '/escaped', join(node.dataDirectory, '../escaped')].filter((path) => existsSync(path)),
})

const attributes = { gid: 0, mode: 0o644, modifiedNs: '0', uid: 0 }
const fileAt = (entries: Entry[]): Entry => entries.find(({ path }) => path === 'srv/file') as Entry
const sorted = (entries: Entry[]): Entry[] => entries.sort((one, two) => (one.path < two.path ? -1 : 1))
const placed = (path: string, more: object = {}): Forgery => ({
  entries: (entries) => sorted([...entries, { ...fileAt(entries), path, ...more }]),
})

type MemoryFiles = [name: string, content: unknown][]
const withMemoryFiles = (manifest: Record<string, unknown>, change: (files: MemoryFiles) => MemoryFiles): unknown => {
  const memory = manifest.memory as { files: Record<string, unknown> }
  return { ...manifest, memory: { ...memory, files: Object.fromEntries(change(Object.entries(memory.files))) } }
}

const TREES: Readonly<Record<string, Forgery>> = {
  'a path that leads out': placed('../../../../tmp/escaped'),
  'an absolute path': placed('/tmp/escaped'),
  'a path with .. in it': placed('srv/../../../escaped'),
  'a path with a NUL': placed('srv/\0escaped'),
  'a file below a symlink that leads out': {
    entries: (entries) =>
      sorted([
        ...entries,
        { ...attributes, path: 'zlink', target: '/tmp', type: 'symlink' },
        { ...fileAt(entries), path: 'zlink/escaped' },
      ]),
  },
  'a link to what is not there': {
    entries: (entries) => sorted([...entries, { path: 'zlink', target: '../../etc/shadow', type: 'link' }]),
  },
  'a device node': placed('dev/sda', { type: 'device', major: 8, minor: 0 }),
  'a block device by its mode': placed('zdevice', { mode: 0o60644 }),
  'attributes of overlayfs': placed('zopaque', { xattrs: { 'trusted.overlay.opaque': 'eQ==' } }),
  'a path twice': { entries: (entries) => [...entries, ...entries] },
  'a file of a petabyte of nothing': {
    entries: (entries) =>
      entries.map((entry) =>
        entry.path === 'srv/file' ? { ...entry, content: { ...(entry.content as object), sizeBytes: 1e15 } } : entry,
      ),
  },
  'a blob a million times over': {
    entries: (entries) =>
      entries.map((entry) => {
        if (entry.path !== 'srv/file') return entry
        const [piece] = (entry.content as { pieces: object[] }).pieces
        return { ...entry, content: { ...(entry.content as object), pieces: Array.from({ length: 1e6 }, () => piece) } }
      }),
  },
  'other bytes than the hash says': { blobs: (blobs) => blobs.map((blob) => Buffer.concat([blob, Buffer.from('x')])) },
  'blobs that nothing needs': { blobs: (blobs) => [...blobs, Buffer.from('more')] },
  'no blobs': { blobs: () => [] },
  'unknown members of the manifest': { manifest: (manifest) => ({ ...manifest, escaped: true }) },
  'memory with files that lead out': {
    manifest: (manifest) =>
      withMemoryFiles(manifest, (files) => files.map(([name, content]) => [`../${name}`, content])),
  },
}

const FILES: Readonly<Record<string, () => Buffer>> = {
  nothing: () => Buffer.alloc(0),
  'no archive': () => Buffer.from('#!/bin/sh\n'.repeat(1000)),
  'half of one': () => genuine.subarray(0, genuine.length / 2),
  'one with more after its end': () => Buffer.concat([genuine, genuine]),
  'a symlink as its manifest': () =>
    writeArchive(
      members.map((member) =>
        member.name === 'manifest.json'
          ? { ...member, bytes: Buffer.alloc(0), type: '2', target: '/etc/shadow' }
          : member,
      ),
    ),
  'a device among its blobs': () =>
    writeArchive(members.map((member) => (member.name.startsWith('blobs/') ? { ...member, type: '3' } : member))),
  'names that lead out': () =>
    writeArchive(
      members.map((member) => (member.name.startsWith('blobs/') ? { ...member, name: '../../escaped' } : member)),
    ),
  'a bomb of a quarter of a gigabyte': () => {
    const manifest = { name: 'manifest.json', bytes: Buffer.alloc(2 ** 28) }
    return zstdCompressSync(writeArchive([...members.slice(0, 1), manifest]))
  },
  'bytes that are not those of the hash': () => {
    const wrong = members.map((member) => ({ ...member, bytes: Buffer.from(member.bytes) }))
    const last = wrong.findLast(({ name }) => name.startsWith('blobs/'))
    last?.bytes.writeUInt8(0, 0)
    return writeArchive(wrong)
  },
}

test.each([
  ...Object.entries(TREES).map(([name, forgery]) => [name, () => forge(members, forgery)] as const),
  ...Object.entries(FILES),
])('%s is refused, and leaves nothing', async (_name, file) => {
  const before = traces()
  const answer = await send(file())
  expect([answer.status, answer.code], answer.text).toEqual([422, 'import_refused'])
  expect(answer.json<Problem>().detail.length).toBeLessThan(1000)
  expect(traces()).toEqual(before)
  expect((await node.ask('GET', '/api/v1/snapshots', { key })).json<{ items: unknown[] }>().items).toEqual([])
})

test('the genuine one is taken; its memory runs for no one but those whom the admin lets', async () => {
  const taken = await send(genuine, '?name=mine')
  expect(taken.status, taken.text).toBe(201)
  const { id, memory } = taken.json<Snapshot>()
  expect(memory?.trusted).toBe(false)
  expect((await send(genuine, '?trustMemory=true')).code).toBe('forbidden')
  const insisted = await node.ask('POST', '/api/v1/snapshots/mine/restore', { key, json: { memory: true } })
  expect([insisted.status, insisted.code]).toEqual([409, 'snapshot_incompatible'])
  for (const path of ['branches', 'fork']) {
    const json = path === 'fork' ? { parent: id, command: 'ps -o args' } : { parent: id, commands: ['ps -o args'] }
    const answer = await node.ask('POST', `/api/v1/${path}`, { key, json })
    expect(answer.text).not.toContain('while read line')
    expect(answer.status).toBeLessThan(300)
  }
  const files = await call<Instance>(node, 'POST', 'snapshots/mine/restore', {}, { key })
  expect(await node.sh(files.id, "ps -o args | grep -c '[w]hile read' || true; cat /srv/file /srv/other", key)).toBe(
    '0\ncontent\ncontent\n',
  )
  const { items } = (await node.ask('GET', '/api/v1/instances', { key })).json<{ items: Instance[] }>()
  for (const each of items) await node.ask('DELETE', `/api/v1/instances/${each.id}`, { key })
  await node.ask('DELETE', '/api/v1/snapshots/mine', { key })

  const trusted = await send(genuine, '?trustMemory=true', node.key)
  expect(trusted.json<Snapshot>().memory?.trusted).toBe(true)
  const box = await call<Instance>(node, 'POST', `snapshots/${id}/restore`, { memory: true })
  expect(await shellOf(node, box.id).tell('b')).toBe('ab')
  // That is the admin's tenant: the other one has to ask anew.
  expect((await send(genuine)).json<Snapshot>().memory?.trusted).toBe(false)
})

test('set-uid is of the sandbox: no rights of the host come of it', async () => {
  const forged = forge(members, {
    entries: (entries) =>
      entries.map((entry) => (entry.path === 'srv/file' ? { ...entry, mode: 0o4755, uid: 0 } : entry)),
    manifest: ({ memory: _memory, ...manifest }) => manifest,
    blobs: (blobs) => blobs.filter((blob) => sha(blob) === sha(Buffer.from('content\n'))),
  })
  const taken = await send(forged)
  expect(taken.status, taken.text).toBe(201)
  const box = await call<Instance>(node, 'POST', `snapshots/${taken.json<Snapshot>().id}/restore`, {}, { key })
  expect(await node.sh(box.id, 'stat -c "%a %u" /srv/file', key)).toBe('4755 0\n')
  await node.ask('DELETE', `/api/v1/instances/${box.id}`, { key })
})

test('memory that was forged, and trusted, harms nobody: it does not start, and nothing of it is left', async () => {
  const other = await node.start({})
  await shellOf(node, other.id).start()
  // Each of its images has what another one had.
  const forged = forge(members, {
    manifest: (manifest) =>
      withMemoryFiles(manifest, (files) =>
        files.map(([name], index) => [name, files[(index + 1) % files.length]?.[1]]),
      ),
    blobs: (blobs) => blobs,
  })
  const taken = await send(forged, '?trustMemory=true', node.key)
  if (taken.status === 201) {
    const { id } = taken.json<Snapshot>()
    const answer = await node.ask('POST', `/api/v1/snapshots/${id}/restore`, { json: { memory: true } })
    expect(answer.status, answer.text).toBeGreaterThanOrEqual(400)
    expect(answer.code).not.toBe('internal')
  } else expect(taken.code).toBe('import_refused')
  using stream = await connectStream(node, other.id)
  await stream.event('state')
  expect(await shellOf(node, other.id).tell('still')).toBe('still')
})
