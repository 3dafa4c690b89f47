import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream'
import { BrambleError } from '@bramble/protocol'
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
import { docker, nodeOf } from './docker.ts'
import { connectEngine } from './engine.ts'
import { findContainers } from './kept.ts'
import { removeContainer } from './sandbox.ts'

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
    const nodes = [nodeOf(join(base, 'main'))]
    return {
      runtime: await open(socketPath, join(base, 'main')),
      image,
      openFresh: async () => {
        const directory = await mkdtemp(join(base, 'fresh-'))
        nodes.push(nodeOf(directory))
        const reopen = () => open(socketPath, directory)
        return { runtime: await reopen(), restart: reopen, reopen }
      },
      // In images, times are whole seconds, and attributes are those of the host alone.
      coarseSeals: true,
      killAgent: async ({ id }: Sandbox) => {
        await engine.getContainer(`bramble-${id}`).kill()
      },
      close: async () => {
        // Those of kept sandboxes, which outlive their runtimes.
        for (const node of nodes)
          for (const { container } of await findContainers({ engine, node })) await removeContainer(container)
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

test('a node that dies leaves its kept sandboxes to the next, and a lost connection is made again', async (context) => {
  const dockerd = await startDockerd().catch(() => undefined)
  if (!dockerd) return context.skip('no Docker Engine')
  await using _dockerd = dockerd
  await using image = await makeTestImage({ variant: 'dies' })
  const sockets = new Set<Socket>()
  const proxy = createServer((socket) => {
    const engine = connect(dockerd.socketPath)
    sockets.add(socket)
    pipeline(socket, engine, () => undefined)
    pipeline(engine, socket, () => undefined)
  }).listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  const { port } = proxy.address() as AddressInfo
  const dataDirectory = await mkdtemp(join(tmpdir(), 'bramble-docker-test-'))
  const first = await docker({ host: `tcp://127.0.0.1:${port}` })({ dataDirectory })
  if (!first.available) throw new Error(first.reason)
  const config = configOf({ image }, { layer: 'dies' })
  const sandbox = await first.runtime.create(config)
  sandbox.agent.log.start({ argv: ['sh', '-c', 'read line; exit 3'], stdin: 'pipe', env: { PATH: '/bin' } }, 'waits')
  await outputOf(sandbox, 'for i in 1 2 3; do /.bramble/bramble-emit n $i; done', { user: 'nobody' })
  await expect(first.runtime.attach(config)).rejects.toMatchObject({ code: 'conflict' })

  // What a killed process does to its connections.
  for (const socket of sockets) socket.destroy()
  await sandbox.agent.closed
  let again: Sandbox | undefined
  // Whether it is the sandbox that ended is asked of the engine first.
  while (!again) {
    await new Promise(setImmediate)
    again = await first.runtime.attach(config).catch(conflicts)
  }
  expect([...again.agent.log.commands.keys()]).toEqual(['waits'])
  expect(await outputOf(again, 'echo again')).toBe('again\n')
  for (const socket of sockets) socket.destroy()

  const next = await open(dockerd.socketPath, dataDirectory)
  await using attached = await next.attach(config)
  expect(attached.agent.log.firstNewSeq - attached.agent.log.firstSeq).toBe(4)
  attached.agent.log.commands.get('waits')?.end()
  expect(await outputOf(attached, 'echo next')).toBe('next\n')
  await attached.destroy()
  await next.layers.remove('dies')
  await next.close()
  await first.runtime.close()
  await new Promise((resolve) => proxy.close(resolve))
  await rm(dataDirectory, { recursive: true, force: true })
})

const conflicts = (error: unknown): undefined => {
  if (!(error instanceof BrambleError) || error.code !== 'conflict') throw error
}
