import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writeSecret } from '@bramble/http'
import ssh2 from 'ssh2'

/**
 * The key by which clients know this node again: made at its first start, kept in its data directory, readable by its owner
 * only. Ed25519, which every client of the last ten years takes (OpenSSH 6.5, PuTTY 0.68).
 */
export const hostKey = async (dataDirectory: string): Promise<string> => {
  const path = join(dataDirectory, 'ssh-host-ed25519.key')
  const kept = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  if (kept !== undefined) return kept
  const { private: made } = ssh2.utils.generateKeyPairSync('ed25519')
  await writeSecret(path, made)
  return made
}
