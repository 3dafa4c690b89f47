import { imageInvalid } from './image-errors.ts'
import { printable, type TarEntry } from './read-tar.ts'

const MAX_NAME_BYTES = 4095
const MAX_COMPONENT_BYTES = 255
const MAX_ID = 2 ** 32 - 2
const WHITEOUT = '.wh.'
/** Attributes that would steer the overlay file system an image becomes a layer of (overlayfs documentation, xattrs). */
const OVERLAY_XATTR = /^(trusted\.|user\.overlay\.)/

/** What the checks remember of one layer. */
export interface LayerState {
  /** Paths of the symbolic links of this layer so far. */
  readonly links: Set<string>
}

/**
 * Checks one entry of a layer, or throws `image_invalid`: its name, and a hard link's target, must stay below the root
 * by their letters alone, without help from a symbolic link of the same layer. Symbolic links may point anywhere: they
 * are followed in the sandbox, and nothing here writes through them.
 */
export const checkEntry = (entry: TarEntry, state: LayerState): void => {
  const path = checkPath(entry.name, 'name')
  if (entry.uid > MAX_ID || entry.gid > MAX_ID) throw imageInvalid(`${printable(entry.name)} has an owner out of range`)
  for (const xattr of entry.xattrs) {
    if (OVERLAY_XATTR.test(xattr)) {
      throw imageInvalid(`${printable(entry.name)} has the attribute ${printable(xattr)}, which is the host's to set`)
    }
  }
  refuseThroughLink(path, entry.name, state)
  if (entry.type === 'hardlink') refuseThroughLink(checkPath(entry.linkName, 'link target'), entry.linkName, state)
  if (entry.type === 'symlink') {
    if (entry.linkName === '' || entry.linkName.includes('\0') || entry.linkName.length > MAX_NAME_BYTES) {
      throw imageInvalid(`the symbolic link ${printable(entry.name)} has no usable target`)
    }
    state.links.add(path.join('/'))
  } else if (state.links.size > 0) state.links.delete(path.join('/'))
}

/** The components of a path below the root; none for the root itself. */
const checkPath = (name: string, what: string): string[] => {
  if (name === '' || name.includes('\0')) throw imageInvalid(`an entry has an empty ${what}`)
  if (name.length > MAX_NAME_BYTES) throw imageInvalid(`an entry has a ${what} past ${MAX_NAME_BYTES} bytes`)
  if (name.startsWith('/')) throw imageInvalid(`the ${what} ${printable(name)} is absolute`)
  const components = name.split('/').filter((component) => component !== '' && component !== '.')
  for (const component of components) {
    if (component === '..') throw imageInvalid(`the ${what} ${printable(name)} leads out of the root`)
    if (component.length > MAX_COMPONENT_BYTES) {
      throw imageInvalid(`the ${what} ${printable(name)} has a part past ${MAX_COMPONENT_BYTES} bytes`)
    }
    if (component.startsWith(WHITEOUT) && ['', '.', '..'].includes(component.slice(WHITEOUT.length))) {
      throw imageInvalid(`the ${what} ${printable(name)} is a whiteout of no name`)
    }
  }
  return components
}

const refuseThroughLink = (path: readonly string[], name: string, state: LayerState): void => {
  if (state.links.size === 0) return
  for (let depth = 1; depth < path.length; depth++) {
    if (state.links.has(path.slice(0, depth).join('/'))) {
      throw imageInvalid(`${printable(name)} goes through a symbolic link of its own layer`)
    }
  }
}
