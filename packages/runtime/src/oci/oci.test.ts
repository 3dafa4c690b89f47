import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Runtime, Sandbox } from '../runtime.ts'
import { makeTestImage, testRuntime } from '../testing.ts'
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

for (const binary of ['crun', 'runc'])
  testRuntime(binary === 'crun' ? 'oci' : `oci with ${binary}`, {
    open: async () => {
      const dataDirectory = await mkdtemp(join(tmpdir(), 'bramble-oci-'))
      const open = async (): Promise<Runtime | { skip: string }> => {
        const probe = await oci({ binary, diskBytes: 4 * 1024 ** 3 })({ dataDirectory })
        return probe.available ? probe.runtime : { skip: probe.reason }
      }
      const runtime = await open()
      if ('skip' in runtime) return runtime
      const image = await makeTestImage()
      return {
        runtime,
        image,
        reopen: async () => {
          const again = await open()
          if ('skip' in again) throw new Error(again.skip)
          return again
        },
        killAgent: async (sandbox) => {
          process.kill(await agentPid(sandbox), 'SIGKILL')
        },
        close: async () => {
          await image[Symbol.asyncDispose]()
          await rm(dataDirectory, { recursive: true, force: true })
        },
      }
    },
  })
