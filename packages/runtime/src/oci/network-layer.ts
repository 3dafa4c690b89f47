import { createHash, randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { chmod, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

const PREFIX = 'network-'

/**
 * A layer with what a sandbox with a network needs in `/etc`: the resolver, and its own names. As a layer over the image it
 * takes the place of whatever the image has there, a link too, and the sandbox may change its own copy. One for each
 * resolver and host name; renamed into place when it is whole. Returns its directory.
 */
export const makeNetworkLayer = async (directory: string, resolver: string, hostname: string): Promise<string> => {
  const files = {
    'resolv.conf': `nameserver ${resolver}\n`,
    hosts: `127.0.0.1 localhost\n127.0.1.1 ${hostname}\n`,
  }
  const digest = createHash('sha256').update(JSON.stringify(files)).digest('hex').slice(0, 16)
  const layer = join(directory, PREFIX + digest)
  if (existsSync(layer)) return layer
  // Of this call alone: several sandboxes may need it first at the same time.
  const fresh = `${layer}.${randomUUID()}`
  await mkdir(join(fresh, 'etc'), { recursive: true })
  for (const [name, text] of Object.entries(files)) {
    await writeFile(join(fresh, 'etc', name), text)
    await chmod(join(fresh, 'etc', name), 0o644)
  }
  for (const path of [join(fresh, 'etc'), fresh]) await chmod(path, 0o755)
  await rename(fresh, layer).catch(async (error: NodeJS.ErrnoException) => {
    await rm(fresh, { recursive: true, force: true })
    if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error
  })
  return layer
}

/** Removes those of earlier processes. No sandbox may run on one. */
export const removeNetworkLayers = async (directory: string): Promise<void> => {
  for (const name of await readdir(directory))
    if (name.startsWith(PREFIX)) await rm(join(directory, name), { recursive: true, force: true })
}
