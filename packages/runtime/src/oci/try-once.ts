import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { newId } from '@bramble/protocol'
import { getFile } from '../agent/files.ts'
import type { LocalImage } from '../images/image-store.ts'
import type { Sandbox, SandboxConfig } from '../runtime.ts'

export interface Tried {
  /** What is wrong. */
  readonly failure?: string
  /** Whether a sandbox could be paused, and went on. */
  readonly pauses: boolean
}

const canPause = async (sandbox: Sandbox): Promise<boolean> => {
  try {
    await sandbox.pause()
    await sandbox.resume()
    await sandbox.agent.ping()
    return true
  } catch {
    return false
  }
}

/**
 * Makes a sandbox of an empty image, below `directory`, and runs the one command that is there, which says how it is
 * confined. The directory is one of the node's: what the node's file system can do, that of `/tmp` may not.
 */
export const tryOnce = async (
  create: (config: SandboxConfig) => Promise<Sandbox>,
  directory: string,
): Promise<Tried> => {
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
    await using sandbox = await create({ id: newId('sandbox'), image, resources })
    const found = await getFile(sandbox.agent, { path: '/proc/self/status', maxBytes: 64 * 1024 })
    const fails = (failure: string): Tried => ({ failure, pauses: false })
    if (!('content' in found)) return fails(`the agent could not read its own status: ${JSON.stringify(found)}`)
    const status = found.content.toString()
    if (!/^Seccomp:\s+2$/m.test(status)) return fails('system calls are not filtered')
    if (!/^NoNewPrivs:\s+1$/m.test(status)) return fails('new privileges are not forbidden')
    return { pauses: await canPause(sandbox) }
  } catch (error) {
    return { failure: error instanceof Error ? error.message : String(error), pauses: false }
  } finally {
    await rm(rootfs, { recursive: true, force: true })
  }
}
