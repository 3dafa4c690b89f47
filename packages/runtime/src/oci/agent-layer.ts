import { createHash } from 'node:crypto'
import { chmod, copyFile, mkdir, open, readdir, readFile, rename, rm, symlink } from 'node:fs/promises'
import { join } from 'node:path'

/** Mount points and the agent's own folder: there whatever the image has, or has not. */
const DIRECTORIES: readonly [path: string, mode: number][] = [
  ['.bramble', 0o755],
  ['.bramble/run', 0o700],
  ['dev', 0o755],
  ['proc', 0o555],
  ['sys', 0o555],
]

const LAYER = /^agent-([0-9a-f]{16})$/
/** The agent has one; what else runs in its place may have any. */
const AGENT_BYTES_MAX = 16 * 1024 * 1024

const nameOf = (program: Uint8Array): string => createHash('sha256').update(program).digest('hex').slice(0, 16)

export const layerOfAgent = (directory: string, agent: string): string => join(directory, `agent-${agent}`)

/** Those of earlier releases stay: what they run is saved and restored with them. */
export const agentsOf = async (directory: string): Promise<string[]> =>
  (await readdir(directory)).flatMap((name) => LAYER.exec(name)?.[1] ?? [])

/** The agent that a process runs. Undefined: it runs none, or has ended. */
export const agentOfProcess = async (pid: string): Promise<string | undefined> => {
  try {
    await using file = await open(`/proc/${pid}/exe`)
    const { size } = await file.stat()
    return size > AGENT_BYTES_MAX ? undefined : nameOf(await file.readFile())
  } catch {
    return undefined
  }
}

/**
 * The layer that lies over every image: the agent and the mount points. Made once per agent, by its digest, and renamed
 * into place when it is whole. Returns its directory.
 */
export const makeAgentLayer = async (directory: string, agentBinary: string): Promise<string> => {
  const layer = layerOfAgent(directory, nameOf(await readFile(agentBinary)))
  const fresh = `${layer}.${process.pid}`
  await rm(fresh, { recursive: true, force: true })
  await mkdir(fresh, { recursive: true, mode: 0o755 })
  for (const [path, mode] of DIRECTORIES) {
    await mkdir(join(fresh, path), { recursive: true })
    await chmod(join(fresh, path), mode)
  }
  await copyFile(agentBinary, join(fresh, '.bramble/agent'))
  await chmod(join(fresh, '.bramble/agent'), 0o755)
  await symlink('agent', join(fresh, '.bramble/bramble-emit'))
  await chmod(fresh, 0o755)
  await rename(fresh, layer).catch(async (error: NodeJS.ErrnoException) => {
    await rm(fresh, { recursive: true, force: true })
    if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error
  })
  return layer
}
