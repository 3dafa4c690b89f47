import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest'
import { type Dockerd, startDockerd } from '../testing/dockerd.ts'
import { craftTar } from './testing/craft-tar.ts'
import { needs, openTestStore, skipUnlessRequired } from './testing/test-store.ts'

const run = promisify(execFile)

describe('an image of a Docker Engine', () => {
  let dockerd: Dockerd | undefined
  let failure = ''
  beforeAll(async () => {
    dockerd = await startDockerd().catch((error) => {
      failure = String(error)
      return undefined
    })
  })
  afterAll(async () => await dockerd?.[Symbol.asyncDispose]())

  const engine = async (
    context: TestContext,
  ): Promise<{ host: string; docker: (...args: string[]) => Promise<string> }> => {
    await needs(context, 'umoci', 'skopeo', 'docker')
    if (!dockerd) skipUnlessRequired(context, failure)
    const host = `unix://${dockerd?.socketPath}`
    const docker = async (...args: string[]) => (await run('docker', ['--host', host, ...args])).stdout
    return { host, docker }
  }

  it('is taken by name, with its config, and always has the same digest', async (context) => {
    const { host, docker } = await engine(context)
    await using test = await openTestStore()
    const reference = `bramble-test/hello-${process.pid}:v1`
    const tar = await test.file('in.tar', craftTar([{ name: 'hello', body: 'hello' }]))
    await docker('import', '--change', 'ENV A=1', '--change', 'WORKDIR /srv', '--change', 'USER app', tar, reference)
    try {
      const source = { kind: 'dockerDaemon', reference, host } as const
      const image = await test.store.import(source)
      expect(image.names).toEqual([reference])
      expect(image.config).toMatchObject({ env: { A: '1' }, workdir: '/srv', user: 'app' })
      expect(await readFile(join(image.rootfs, 'hello'), 'utf8')).toBe('hello')
      expect((await test.store.import(source)).digest).toBe(image.digest)
      const id = (await docker('image', 'inspect', '--format', '{{.Id}}', reference)).trim()
      expect((await test.store.import({ ...source, reference: id })).digest).toBe(image.digest)
    } finally {
      await docker('image', 'rm', reference)
    }
  })

  it('that is not there, or past the limit, is refused', async (context) => {
    const { host, docker } = await engine(context)
    await using test = await openTestStore({ maxImageBytes: 10_000 })
    const missing = { kind: 'dockerDaemon', reference: 'bramble-test/missing:v1', host } as const
    await test.expectRefused(missing, /missing:v1: the engine says 404/, 'image_pull_failed')
    const reference = `bramble-test/large-${process.pid}:v1`
    const tar = await test.file('in.tar', craftTar([{ name: 'large', body: Buffer.alloc(50_000) }]))
    await docker('import', tar, reference)
    try {
      await test.expectRefused({ ...missing, reference }, /limit of 10000 bytes/)
    } finally {
      await docker('image', 'rm', reference)
    }
  })
})

it('an engine that is not there is said to be so', async () => {
  await using test = await openTestStore()
  const host = `unix://${test.path('nothing.sock')}`
  await test.expectRefused({ kind: 'dockerDaemon', reference: 'x', host }, /ENOENT/, 'image_pull_failed')
  await test.expectRefused({ kind: 'dockerDaemon', reference: 'x', host: 'ssh://h' }, /address/, 'image_pull_failed')
  await test.expectRefused({ kind: 'dockerDaemon', reference: '../info', host }, /reference/, 'image_pull_failed')
})
