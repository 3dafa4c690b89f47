import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { Runtime, Sandbox } from '../runtime.ts'
import { configOf, makeTestImage, outputOf, testRuntime } from '../testing.ts'
import { identify, readPidFile, writePidFile } from './pid-file.ts'
import { processes } from './processes.ts'

const open = async (dataDirectory: string): Promise<Runtime> => {
  const probe = await processes()({ dataDirectory })
  if (!probe.available) throw new Error(probe.reason)
  return probe.runtime
}

const agentPidOf = async (dataDirectory: string, { id }: Sandbox): Promise<number> => {
  const identity = await readPidFile(join(dataDirectory, 'process', id, 'agent.pid'))
  if (!identity) throw new Error('the agent does not run')
  return identity.pid
}

testRuntime('process', {
  open: async () => {
    const base = await mkdtemp(join(tmpdir(), 'bramble-process-'))
    const image = await makeTestImage()
    const main = join(base, 'main')
    return {
      runtime: await open(main),
      image,
      sharesHost: true,
      openFresh: async () => {
        const directory = await mkdtemp(join(base, 'fresh-'))
        return { runtime: await open(directory), restart: () => open(directory) }
      },
      killAgent: async (sandbox) => {
        process.kill(await agentPidOf(main, sandbox), 'SIGKILL')
      },
      close: async () => {
        await image[Symbol.asyncDispose]()
        await rm(base, { recursive: true, force: true })
      },
    }
  },
})

test('commands begin and have their home in a directory that goes with the sandbox', async () => {
  const base = await mkdtemp(join(tmpdir(), 'bramble-process-'))
  await using runtime = await open(base)
  const sandbox = await runtime.create(configOf({ image: {} as never }))
  const env = { PATH: '/usr/bin:/bin', HOME: '/root' }
  const [home, workdir] = (await outputOf(sandbox, 'echo $HOME; pwd', { env, workdir: '/', user: 'root' })).split('\n')
  expect(home).toBe(workdir)
  expect(home).toContain(sandbox.id)
  await sandbox.destroy()
  await expect(readFile(join(String(home), 'x'))).rejects.toMatchObject({ code: 'ENOENT' })
  await rm(base, { recursive: true, force: true })
})

test('what the commands of a killed agent left is killed with its directory', async () => {
  const base = await mkdtemp(join(tmpdir(), 'bramble-process-'))
  await using runtime = await open(base)
  const sandbox = await runtime.create(configOf({ image: {} as never }))
  const left = Number(await outputOf(sandbox, 'sleep 100000 >/dev/null 2>&1 & echo $!'))
  process.kill(await agentPidOf(base, sandbox), 'SIGKILL')
  await sandbox.ended
  // Killed means on its way out: the kernel needs a moment, and the time limit of the test bounds it.
  while (await identify(left)) await new Promise((resolve) => setImmediate(resolve))
  expect(await runtime.list()).toEqual([])
  await rm(base, { recursive: true, force: true })
})

test('a pid file names a process only while that very process runs', async () => {
  const base = await mkdtemp(join(tmpdir(), 'bramble-process-'))
  const file = join(base, 'agent.pid')
  const self = await identify(process.pid)
  if (!self) throw new Error('this process is not in /proc')
  await writePidFile(file, self)
  expect(await readPidFile(file)).toEqual(self)
  const recycled = { ...self, startTicks: String(Number(self.startTicks) + 1) }
  await writePidFile(file, recycled)
  expect(await readPidFile(file)).toBeUndefined()
  expect(await readPidFile(join(base, 'missing'))).toBeUndefined()
  await rm(base, { recursive: true, force: true })
})
