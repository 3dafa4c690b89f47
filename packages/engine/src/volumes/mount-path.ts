import { posix } from 'node:path'
import { BrambleError } from '@bramble/protocol'

/** Where nothing can be mounted: what makes a sandbox a sandbox is there. */
const TAKEN = ['/proc', '/sys', '/dev', '/.bramble']

const hasControls = (path: string): boolean => [...path].some((character) => character < ' ' || character === '\x7f')

/** A place for a mount, in its plain form. Throws `invalid_request` for one that may not be. */
export const assertMountable = (path: string): string => {
  const plain = posix.normalize(path).replace(/(.)\/$/, '$1')
  const taken = TAKEN.some((folder) => plain === folder || plain.startsWith(`${folder}/`))
  if (!plain.startsWith('/') || plain === '/' || taken || hasControls(path))
    throw new BrambleError('invalid_request', { detail: `nothing can be mounted at \`${path}\`` })
  return plain
}
