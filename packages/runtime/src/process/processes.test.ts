import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { Runtime, Sandbox } from '../runtime.ts'
import { configOf, endOf, makeTestImage, outputOf, testRuntime } from '../testing.ts'
import { identify, readPidFile, writePidFile } from './pid-file.ts'
import { processes } from './processes.ts'

const open = async (dataDirectory: string): Promise<Runtime> => {
  const probe = await processes()({ dataDirectory })
  if (!probe.available) throw new Error(probe.reason)
  return probe.runtime
}

const agentPidOf = async (base: string, { id }: Sandbox): Promise<number> => {
  for (const directory of ['.', ...(await readdir(base))]) {
    const identity = await readPidFile(join(base, directory, 'process', id, 'agent.pid'))
    if (identity) return identity.pid
  }
  throw new Error('the agent does not run')
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
        const reopen = () => open(directory)
        return { runtime: await reopen(), restart: reopen, reopen }
      },
      killAgent: async (sandbox) => {
        process.kill(await agentPidOf(base, sandbox), 'SIGKILL')
      },
      close: async () => {
        // Kept sandboxes of tests that left them.
        for (const name of await readdir(base)) {
          await using runtime = await open(join(base, name))
          await runtime.reap()
        }
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

test('named commands and events outlive the connection, and the node', async () => {
  const base = await mkdtemp(join(tmpdir(), 'bramble-process-'))
  const config = configOf({ image: {} as never }, { layer: 'one' })
  const first = await open(base)
  const sandbox = await first.create(config)
  const env = { PATH: '/usr/bin:/bin' }
  sandbox.agent.log.start({ argv: ['sh', '-c', 'read line; pwd'], stdin: 'pipe', env }, 'waits')
  const emitted = `import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b'{"name":"n","data":1}', os.environ["BRAMBLE_EVENTS"])`
  expect(await endOf(sandbox, ['python3', '-c', emitted], { env })).toBe(0)
  await expect(first.create(configOf({ image: {} as never }, { layer: '../up' }))).rejects.toMatchObject({
    code: 'invalid_request',
  })
  await first.close()

  await using next = await open(base)
  await using attached = await next.attach(config)
  const { log } = attached.agent
  const done = Promise.withResolvers<void>()
  const said: string[] = []
  log.read((entry) => {
    if ('emitted' in entry) said.push(entry.emitted.toString())
    else if (entry.event.type === 'stdout') said.push(entry.event.data.toString())
    else if (entry.event.type === 'exit') done.resolve()
  })
  await log.commands.get('waits')?.write(Buffer.from('go on\n'))
  await done.promise
  expect(said).toEqual(['{"name":"n","data":1}', `${join(base, 'process/layers/one')}\n`])
  // A connection that breaks is not the end of it: somebody else held it for a moment.
  await attached.agent.close()
  let again: Sandbox | undefined
  while (!again) {
    await new Promise(setImmediate)
    again = await next.attach(config).catch((error: { code: string }) => {
      expect(error.code).toBe('conflict')
      return undefined
    })
  }
  expect(await endOf(again, ['true'])).toBe(0)
  await again.destroy()
  expect(await next.list()).toEqual([])
  await rm(base, { recursive: true, force: true })
})
