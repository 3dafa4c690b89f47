import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { newId } from '@bramble/protocol'
import { getFile } from '../agent/files.ts'
import type { LocalImage } from '../images/image-store.ts'
import type { Runtime } from '../runtime.ts'

/**
 * Makes a sandbox of an empty image, below `directory`, and runs the one command that is there, which says how it is
 * confined. Returns what is wrong, or undefined. The directory is one of the node's: what the node's file system can do, that of `/tmp` may not.
 */
export const tryOnce = async (runtime: Runtime, directory: string): Promise<string | undefined> => {
  const rootfs = await mkdtemp(join(directory, 'probe-'))
  const image: LocalImage = {
    digest: `sha256:${'0'.repeat(64)}`,
    names: [],
    source: 'probe',
    sizeBytes: 0,
    createdAt: new Date(0).toISOString(),
    config: { env: {}, workdir: '/', user: 'root' },
    rootfs,
  }
  try {
    const resources = { cpus: 1, memoryMb: 64, diskMb: 16, pids: 16 }
    await using sandbox = await runtime.create({ id: newId('sandbox'), image, resources })
    const found = await getFile(sandbox.agent, { path: '/proc/self/status', maxBytes: 64 * 1024 })
    if (!('content' in found)) return `the agent could not read its own status: ${JSON.stringify(found)}`
    const status = found.content.toString()
    if (runtime.capabilities.seccomp && !/^Seccomp:\s+2$/m.test(status)) return 'system calls are not filtered'
    if (!/^NoNewPrivs:\s+1$/m.test(status)) return 'new privileges are not forbidden'
    return undefined
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  } finally {
    await rm(rootfs, { recursive: true, force: true })
  }
}
