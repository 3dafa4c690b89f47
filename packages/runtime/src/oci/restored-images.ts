import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BrambleError } from '@bramble/protocol'
import { IDS_PER_SANDBOX } from './config.ts'
import type { Launcher } from './launcher.ts'
import { hostnameImage, usersImage } from './memory-images.ts'
import { memoryFiles, sealPath } from './seals.ts'

const USERS = /^userns-\d+\.img$/
const HOSTNAME = /^utsns-\d+\.img$/

/** The images in which a sandbox that continues the seal is other than the one it was made of. */
export const restoredImages = async (
  launcher: Launcher,
  seal: string,
  identity: { readonly uidBase: number; readonly hostname: string },
): Promise<Map<string, Uint8Array>> => {
  const images = new Map<string, Uint8Array>()
  if (!(await launcher.seals()).includes(seal))
    throw new BrambleError('not_found', { detail: `there is no seal ${seal} on this host` })
  const files = await memoryFiles(launcher, seal).catch(() => [])
  const directory = join(sealPath(launcher, seal), 'memory')
  for (const { name } of files) {
    if (USERS.test(name))
      images.set(name, usersImage(await readFile(join(directory, name)), identity.uidBase, IDS_PER_SANDBOX))
    if (HOSTNAME.test(name)) images.set(name, hostnameImage(await readFile(join(directory, name)), identity.hostname))
  }
  if (images.size !== 2) throw new BrambleError('snapshot_incompatible', { detail: `the seal ${seal} has no memory` })
  return images
}
