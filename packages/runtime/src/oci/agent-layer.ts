import { createHash } from 'node:crypto'
import { chmod, copyFile, mkdir, readFile, rename, rm, symlink } from 'node:fs/promises'
import { join } from 'node:path'

/** Mount points and the agent's own folder: there whatever the image has, or has not. */
const DIRECTORIES: readonly [path: string, mode: number][] = [
  ['.bramble', 0o755],
  ['.bramble/run', 0o700],
  ['dev', 0o755],
  ['proc', 0o555],
  ['sys', 0o555],
]

/**
 * The layer that lies over every image: the agent and the mount points. Made once per agent, by its digest, and renamed
 * into place when it is whole. Returns its directory.
 */
export const makeAgentLayer = async (directory: string, agentBinary: string): Promise<string> => {
  const digest = createHash('sha256')
    .update(await readFile(agentBinary))
    .digest('hex')
  const layer = join(directory, `agent-${digest.slice(0, 16)}`)
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
