import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Runtime } from '../runtime.ts'
import { launcherOf } from '../testing/launcher-of.ts'
import { makeTestImage, type SubjectOptions, testRuntime, testRuntimeIsolation } from '../testing.ts'
import { oci } from './oci.ts'
import { endLauncher, pidsOf } from './testing/oci-nodes.ts'

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
          const [agent] = await pidsOf(sandbox)
          if (agent === undefined) throw new Error('the sandbox has no process')
          process.kill(agent, 'SIGKILL')
        },
        close: async () => {
          // Kept sandboxes of a test that failed.
          for (const name of await readdir(base)) await endLauncher(join(base, name))
          await image[Symbol.asyncDispose]()
          await rm(base, { recursive: true, force: true })
        },
      }
    },
  }
  testRuntime(name, options)
  testRuntimeIsolation(name, options)
}
