import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { NodeProcess } from '../../test/node-process.ts'

/** Where the node unpacked its base image: both sides of a comparison run the same files. */
export const baseRootfs = (node: NodeProcess): string => {
  const directory = join(node.dataDirectory, 'images', 'sha256')
  for (const digest of readdirSync(directory)) {
    const image = JSON.parse(readFileSync(join(directory, digest, 'image.json'), 'utf8')) as { names?: string[] }
    if (image) return join(directory, digest, 'rootfs')
  }
  throw new Error('the node has no image')
}
