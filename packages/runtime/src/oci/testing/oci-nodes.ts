import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, onTestFinished, type TestContext } from 'vitest'
import type { Runtime, Sandbox } from '../../runtime.ts'
import { launcherOf } from '../../testing/launcher-of.ts'
import { skip } from '../../testing/subject.ts'
import { makeTestImage, type TestImage } from '../../testing/test-image.ts'
import { findCgroups } from '../cgroups.ts'
import { type OciDeps, type OciOptions, oci } from '../oci.ts'

export const DISK_BYTES = 1024 ** 3

/** Data directories of their own below one that goes after the tests, launchers included. */
export interface OciNodes {
  readonly image: TestImage
  readonly base: string
  /** The test is skipped where crun makes no sandboxes. */
  directory(context: TestContext): Promise<string>
  /** A runtime on such a directory; it is closed when the test has ended. */
  open(directory: string, options?: OciOptions & Partial<OciDeps>): Promise<Runtime>
}

/** Opens them once for the tests of a file. */
export const useOciNodes = (): OciNodes => {
  let base: string
  let image: TestImage | undefined
  let unavailable: string | undefined
  beforeAll(async () => {
    base = await mkdtemp(join(tmpdir(), 'bramble-oci-nodes-'))
    const probed = await oci({ binary: 'crun', diskBytes: DISK_BYTES })({ dataDirectory: join(base, 'probe') })
    if (probed.available) await probed.runtime.close()
    else unavailable = probed.reason
    if (unavailable === undefined) image = await makeTestImage()
    else if ((process.env.REQUIRE_DRIVERS ?? '').split(',').includes('oci')) throw new Error(unavailable)
  })
  afterAll(async () => {
    await image?.[Symbol.asyncDispose]()
    await rm(base, { recursive: true, force: true })
  })
  return {
    get image() {
      if (image === undefined) throw new Error('the image is not made')
      return image
    },
    get base() {
      return base
    },
    directory: async (context) => {
      if (unavailable !== undefined) skip(context, unavailable)
      const directory = await mkdtemp(join(base, 'node-'))
      onTestFinished(() => endLauncher(directory))
      return directory
    },
    open: async (dataDirectory, { onNotice, agentPath, ...options } = {}) => {
      const probed = await oci({ binary: 'crun', diskBytes: DISK_BYTES, ...options })({
        dataDirectory,
        ...(onNotice && { onNotice }),
        ...(agentPath !== undefined && { agentPath }),
      })
      if (!probed.available) throw new Error(probed.reason)
      onTestFinished(() => probed.runtime.close())
      return probed.runtime
    },
  }
}

/** Dead ones may wait for whoever inherited them. */
export const isAlive = async (pid: number): Promise<boolean> =>
  /^State:\s+[^ZX]/m.test(await readFile(`/proc/${pid}/status`, 'utf8').catch(() => ''))

/** Resolves when the process is gone. The kernel tells nobody but its parent, so it is asked. */
export const gone = async (pid: number): Promise<void> => {
  while (await isAlive(pid)) await new Promise((resolve) => setTimeout(resolve, 5))
}

/** Ends the launcher of a directory, and all that it keeps. */
export const endLauncher = async (dataDirectory: string): Promise<void> => {
  const pid = launcherOf(dataDirectory)
  if (pid === undefined) return
  process.kill(pid, 'SIGTERM')
  await gone(pid)
}

/** Processes of a sandbox, as the host sees them, the agent first. */
export const pidsOf = async (sandbox: Sandbox): Promise<number[]> => {
  const { cgroupPath } = sandbox as Sandbox & { cgroupPath: string }
  for (const hierarchy of findCgroups()?.hierarchies ?? []) {
    const text = await readFile(`${hierarchy}${cgroupPath}/cgroup.procs`, 'utf8').catch(() => '')
    if (text) return text.trim().split('\n').map(Number)
  }
  return []
}
