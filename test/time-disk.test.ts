import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { blobKeyOf, damageObject, openS3Server, type S3Server } from '@bramble/blobs/testing/s3'
import type { ExecutionResult, Instance, Problem, Snapshot } from '@bramble/protocol'
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { call, untilUploaded } from './time-node.ts'

/** Bits that flip on the disk of a whole node, and in its object store; a disk that is full, and one that is read-only. */

const MAIN = join(import.meta.dirname, '../packages/cli/src/main.ts')
const run = promisify(execFile)
const ENV = { BRAMBLE_LOG_LEVEL: 'silent' }

let skip: string | undefined
let s3: S3Server
let url = ''
let a: LiveNode
let b: LiveNode

const must = async (options: Parameters<typeof openLiveNode>[0]): Promise<LiveNode> => {
  const opened = await openLiveNode(options)
  if ('skip' in opened) throw new Error(opened.skip)
  return opened
}

beforeAll(async () => {
  const server = await openS3Server()
  if ('skip' in server) {
    skip = server.skip
    return
  }
  s3 = server
  url = s3.url(await s3.newBucket())
  const env = { ...ENV, BRAMBLE_OBJECT_STORE_URL: url }
  const opened = await openLiveNode({ env })
  if ('skip' in opened) {
    skip = opened.skip
    return
  }
  a = opened
  b = await must({ env })
})
afterAll(async () => {
  await a?.[Symbol.asyncDispose]()
  await b?.[Symbol.asyncDispose]()
  await s3?.close()
})
beforeEach((context) => {
  if (skip !== undefined) context.skip(skip)
})

const contentOf = async (node: LiveNode, snapshot: string): Promise<string> => {
  const { id } = await call<Instance>(node, 'POST', `snapshots/${snapshot}/restore`, {})
  const content = await node.sh(id, 'cat /root/file; md5sum < /root/noise')
  await call(node, 'DELETE', `instances/${id}`)
  return content
}

/** A snapshot of files of its own, and what is in them. */
const authored = async (node: LiveNode): Promise<{ id: string; content: string }> => {
  const box = await node.start({})
  await node.sh(box.id, 'cat /proc/sys/kernel/random/uuid > /root/file; head -c 300000 /dev/urandom > /root/noise')
  const content = await node.sh(box.id, 'cat /root/file; md5sum < /root/noise')
  const { id } = await call<Snapshot>(node, 'POST', 'snapshots', { instanceId: box.id, memory: false })
  await call(node, 'DELETE', `instances/${box.id}`)
  return { id, content }
}

/** Files of blobs, by their hash. */
const blobFiles = ({ dataDirectory }: LiveNode): Map<string, string> =>
  new Map(
    readdirSync(join(dataDirectory, 'blobs/blobs'), { recursive: true, encoding: 'utf8' }).flatMap((path) =>
      /\/[0-9a-f]{64}$/.test(path) ? [[path.slice(3), join(dataDirectory, 'blobs/blobs', path)] as const] : [],
    ),
  )
const flip = (bytes: Buffer): Buffer => {
  const at = Math.floor(bytes.length / 3)
  bytes.writeUInt8(bytes.readUInt8(at) ^ 4, at)
  return bytes
}
const flipFile = (path: string): void => writeFileSync(path, flip(readFileSync(path)))
const exported = (node: LiveNode, id: string) => node.ask('GET', `/api/v1/snapshots/${id}/export`)
const quarantined = ({ dataDirectory }: LiveNode): string[] =>
  readdirSync(join(dataDirectory, 'blobs/quarantine')).map((name) => name.slice(0, 64))

/** What a snapshot put into the store of the node. */
const hashesOf = async <T>(node: LiveNode, work: () => Promise<T>): Promise<[T, string[]]> => {
  const before = blobFiles(node)
  const result = await work()
  return [result, [...blobFiles(node).keys()].filter((hash) => !before.has(hash))]
}

describe('a bit that flips', () => {
  test('in each local blob of a snapshot: it is found, set aside, and healed from the object store', async () => {
    const { id, content } = await authored(a)
    await untilUploaded(a)
    // They are on this disk now, and no state of a sandbox is.
    const [{ body }, hashes] = await hashesOf(b, () => exported(b, id))
    expect(hashes.length).toBeGreaterThan(2)
    for (const hash of hashes) flipFile(blobFiles(b).get(hash) ?? '')
    expect(await contentOf(b, id)).toBe(content)
    expect(quarantined(b).sort()).toEqual(hashes.sort())
    expect((await exported(b, id)).body.equals(body)).toBe(true)
    const metrics = (await b.ask('GET', '/metrics')).text
    expect(metrics).toContain(`bramble_store_healed_total{tier="local"} ${hashes.length}`)
  })

  test('in the object store: whoever reads it is told which, and the node that has it heals it', async () => {
    const [{ id, content }, hashes] = await hashesOf(a, () => authored(a))
    await untilUploaded(a)
    for (const hash of hashes) await changeObject(hash)
    const refused = await b.ask('POST', `/api/v1/snapshots/${id}/restore`, { json: {} })
    expect([refused.status, refused.code], refused.text).toEqual([500, 'blob_corrupt'])
    const { detail, retryable } = refused.json<Problem>()
    expect(retryable).toBe(true)
    expect(hashes.filter((hash) => detail.includes(hash))).toHaveLength(1)
    expect(await contentOf(a, id)).toBe(content)
    await a.kill()
    const { stdout } = await run(process.execPath, [MAIN, 'store', 'verify', '--json', '--data-dir', a.dataDirectory], {
      env: { ...process.env, BRAMBLE_OBJECT_STORE_URL: url },
    })
    const { healedShared, lost } = JSON.parse(stdout)
    expect(healedShared.sort()).toEqual(hashes.sort())
    expect(lost).toEqual([])
    await a.again()
    expect(await contentOf(b, id)).toBe(content)
  })

  test('where there is no other copy: the error names it, and the rest goes on', async () => {
    await using alone = await must({ env: ENV })
    const [{ id }, hashes] = await hashesOf(alone, () => authored(alone))
    const files = blobFiles(alone)
    const [largest = ''] = hashes.sort((one, two) => size(files.get(two)) - size(files.get(one)))
    flipFile(files.get(largest) ?? '')
    const answer = await exported(alone, id).catch((error: Error) => error)
    // An answer that has begun can only be cut.
    if (!(answer instanceof Error)) expect(answer.text).toContain(largest)
    expect(quarantined(alone)).toEqual([largest])
    const again = await exported(alone, id)
    expect(again.code).toMatch(/^blob_(corrupt|not_found)$/)
    expect(again.text).toContain(largest)
    // Its state is on the disk of the sandboxes, too.
    const box = await call<Instance>(alone, 'POST', `snapshots/${id}/restore`, {})
    expect(await alone.sh(box.id, 'wc -c < /root/noise')).toBe('300000\n')
    expect(await call<ExecutionResult>(alone, 'POST', 'execute', { command: 'true' })).toMatchObject({ exitCode: 0 })
  })
})

const size = (path = ''): number => readFileSync(path).length

const changeObject = (hash: string): Promise<void> => damageObject(s3.client(), new URL(url).hostname, blobKeyOf(hash))

/** A small file system of its own, until the test ends. */
const mountSmall = async (megabytes: number): Promise<string> => {
  const directory = mkdtempSync(join(tmpdir(), 'bramble-small-'))
  const image = join(directory, 'image')
  const mountpoint = join(directory, 'mounted')
  mkdirSync(mountpoint)
  await run('truncate', ['-s', `${megabytes}M`, image])
  await run('mkfs.ext4', ['-q', '-m', '0', image])
  await run('mount', ['-o', 'loop', image, mountpoint])
  onTestFinished(async () => {
    await run('umount', [mountpoint])
    rmSync(directory, { recursive: true })
  })
  return mountpoint
}

describe('a disk that', () => {
  test('is full: what needs room is told, the rest goes on; with room it goes on, too', async () => {
    const mounted = await mountSmall(700)
    const directory = join(mounted, 'node')
    mkdirSync(directory)
    await using node = await must({ env: ENV, directory })
    const box = await node.start({ resources: { diskMb: 32 } })
    await node.sh(box.id, 'echo before > /root/file')
    const { id } = await call<Snapshot>(node, 'POST', 'snapshots', { instanceId: box.id, memory: false })
    const { stdout } = await run('df', ['--output=avail', '-B1', mounted])
    const available = Number(stdout.trim().split('\n').at(-1))
    await run('fallocate', ['-l', String(available - 60_000_000), join(mounted, 'filler')])
    const put = await node.ask('PUT', '/api/v1/blobs', { body: randomBytes(80_000_000) })
    expect([put.status, put.code], put.text).toEqual([507, 'store_full'])
    const full = await node.ask('POST', '/api/v1/snapshots', { json: { instanceId: box.id, memory: false } })
    expect([full.status, full.code], full.text).toEqual([507, 'store_full'])
    expect(full.json<Problem>().retryable).toBe(true)
    expect(await node.sh(box.id, 'cat /root/file')).toBe('before\n')
    expect(await call<ExecutionResult>(node, 'POST', 'execute', { command: 'echo on' })).toMatchObject({
      stdout: 'on\n',
    })
    rmSync(join(mounted, 'filler'))
    await call(node, 'POST', 'snapshots', { instanceId: box.id, memory: false })
    const restored = await call<Instance>(node, 'POST', `snapshots/${id}/restore`, {})
    expect(await node.sh(restored.id, 'cat /root/file')).toBe('before\n')
  })

  test('can only be read: what is there is, and the rest is told', async () => {
    await using node = await must({ env: ENV })
    const { id } = await authored(node)
    const blobs = join(node.dataDirectory, 'blobs')
    const box = await node.start({})
    await run('mount', ['--bind', blobs, blobs])
    try {
      await run('mount', ['-o', 'remount,bind,ro', blobs])
      await node.sh(box.id, 'echo new > /root/file')
      const refused = await node.ask('POST', '/api/v1/snapshots', { json: { instanceId: box.id, memory: false } })
      expect([refused.status, refused.code], refused.text).toEqual([503, 'store_read_only'])
      expect((await exported(node, id)).status).toBe(200)
      const restored = await call<Instance>(node, 'POST', `snapshots/${id}/restore`, {})
      expect(await node.sh(restored.id, 'wc -c < /root/noise')).toBe('300000\n')
      for (const mode of ['ephemeral', 'cached'])
        expect(await call(node, 'POST', 'execute', { command: 'echo on', mode })).toMatchObject({ stdout: 'on\n' })
    } finally {
      await run('umount', [blobs])
    }
    await call(node, 'POST', 'snapshots', { instanceId: box.id, memory: false })
  })
})
