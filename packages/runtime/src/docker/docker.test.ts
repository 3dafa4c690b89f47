import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { type AddressInfo, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream'
import { expect, test } from 'vitest'
import type { Runtime, Sandbox } from '../runtime.ts'
import { startDockerd } from '../testing/dockerd.ts'
import {
  configOf,
  makeTestImage,
  outputOf,
  type SubjectOptions,
  testRuntime,
  testRuntimeIsolation,
} from '../testing.ts'
import { docker } from './docker.ts'
import { connectEngine } from './engine.ts'

const open = async (socketPath: string, dataDirectory: string): Promise<Runtime> => {
  const probe = await docker({ socketPath })({ dataDirectory })
  if (!probe.available) throw new Error(probe.reason)
  return probe.runtime
}

const subject = {
  open: async () => {
    const dockerd = await startDockerd().catch((error: Error) => ({ skip: error.message }))
    if ('skip' in dockerd) return dockerd
    const { socketPath } = dockerd
    const engine = await connectEngine({ socketPath })
    const image = await makeTestImage()
    const base = await mkdtemp(join(tmpdir(), 'bramble-docker-test-'))
    return {
      runtime: await open(socketPath, join(base, 'main')),
      image,
      openFresh: async () => {
        const directory = await mkdtemp(join(base, 'fresh-'))
        return { runtime: await open(socketPath, directory), restart: () => open(socketPath, directory) }
      },
      killAgent: async ({ id }: Sandbox) => {
        await engine.getContainer(`bramble-${id}`).kill()
      },
      close: async () => {
        await image[Symbol.asyncDispose]()
        await dockerd[Symbol.asyncDispose]()
        await rm(base, { recursive: true, force: true })
      },
    }
  },
} satisfies SubjectOptions

testRuntime('docker', subject)
testRuntimeIsolation('docker', subject)

test('without an engine the probe says so', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-docker-test-'))
  const probe = await docker({ socketPath: join(directory, 'none.sock') })({ dataDirectory: directory })
  expect(probe).toMatchObject({ available: false, reason: expect.stringMatching(/ENOENT/), hint: expect.any(String) })
  await rm(directory, { recursive: true, force: true })
})

test('an engine is reached over TCP, with nothing of this host', async (context) => {
  const dockerd = await startDockerd().catch(() => undefined)
  if (!dockerd) return context.skip('no Docker Engine')
  await using _dockerd = dockerd
  await using image = await makeTestImage({ variant: 'tcp' })
  const proxy = createServer((socket) => {
    const engine = connect(dockerd.socketPath)
    pipeline(socket, engine, () => undefined)
    pipeline(engine, socket, () => undefined)
  }).listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  const { port } = proxy.address() as AddressInfo
  const probe = await docker({ host: `tcp://127.0.0.1:${port}` })({ dataDirectory: '/nowhere/on/this/host' })
  if (!probe.available) throw new Error(probe.reason)
  {
    await using runtime = probe.runtime
    // Not readied: `create` does it where the engine lacks the image.
    await using sandbox = await runtime.create(configOf({ image }))
    expect(await outputOf(sandbox, 'cat /etc/variant', { input: 'x' })).toBe('tcp\n')
  }
  await new Promise((resolve) => proxy.close(resolve))
})
