import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Runtime, Sandbox } from '../runtime.ts'
import { launcherOf } from '../testing/launcher-of.ts'
import { makeTestImage, type SubjectOptions, testRuntime, testRuntimeIsolation } from '../testing.ts'
import { findCgroups } from './cgroups.ts'
import { oci } from './oci.ts'

/** PID 1 of a sandbox, as the host sees it: its agent. */
const agentPid = async (sandbox: Sandbox): Promise<number> => {
  const { hierarchies } = findCgroups() ?? { hierarchies: [] }
  for (const hierarchy of hierarchies) {
    const path = `${hierarchy}${(sandbox as Sandbox & { cgroupPath: string }).cgroupPath}/cgroup.procs`
    const [pid] = (await readFile(path, 'utf8').catch(() => '')).split('\n')
    if (pid) return Number(pid)
  }
  throw new Error('the sandbox has no process')
}

for (const binary of ['crun', 'runc']) {
  const name = binary === 'crun' ? 'oci' : `oci with ${binary}`
  const options: SubjectOptions = {
    open: async () => {
      const base = await mkdtemp(join(tmpdir(), 'bramble-oci-'))
      const probe = (dataDirectory: string) => oci({ binary, diskBytes: 4 * 1024 ** 3 })({ dataDirectory })
      const open = async (dataDirectory: string): Promise<Runtime> => {
        const probed = await probe(dataDirectory)
        if (!probed.available) throw new Error(probed.reason)
        return probed.runtime
      }
      const first = await probe(join(base, 'main'))
      if (!first.available) {
        await rm(base, { recursive: true, force: true })
        return { skip: first.reason }
      }
      const image = await makeTestImage()
      return {
        runtime: first.runtime,
        image,
        openFresh: async () => {
          const directory = await mkdtemp(join(base, 'fresh-'))
          return {
            runtime: await open(directory),
            restart: async () => {
              const launcher = launcherOf(directory)
              if (launcher !== undefined) process.kill(launcher, 'SIGKILL')
              return await open(directory)
            },
            reopen: () => open(directory),
          }
        },
        killAgent: async (sandbox) => {
          process.kill(await agentPid(sandbox), 'SIGKILL')
        },
        close: async () => {
          await image[Symbol.asyncDispose]()
          await rm(base, { recursive: true, force: true })
        },
      }
    },
  }
  testRuntime(name, options)
  testRuntimeIsolation(name, options)
}
