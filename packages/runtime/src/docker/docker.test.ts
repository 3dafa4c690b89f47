import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Runtime, Sandbox } from '../runtime.ts'
import { startDockerd } from '../testing/dockerd.ts'
import { makeTestImage, type SubjectOptions, testRuntime, testRuntimeIsolation } from '../testing.ts'
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
