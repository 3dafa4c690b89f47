import type { Image } from '@bramble/protocol'
import type { Abortable } from '../runtime.ts'

/** An image on this host: what users see of it, and where its unpacked root filesystem is. */
export interface LocalImage extends Image {
  /** A directory, owned by root, never written after import; files have the owners that the image gives them. */
  readonly rootfs: string
}

/** Where an image comes from. Paths are of this host. */
export type ImageSource =
  | { readonly kind: 'rootfsTar'; readonly path: string }
  | { readonly kind: 'ociArchive'; readonly path: string }
  | { readonly kind: 'ociLayout'; readonly path: string }
  | { readonly kind: 'registry'; readonly reference: string; readonly insecure?: boolean }
  | { readonly kind: 'dockerDaemon'; readonly reference: string }
  | { readonly kind: 'rootfsDirectory'; readonly path: string }

export interface ImportProgress {
  readonly phase: 'copy' | 'unpack' | 'commit'
  readonly message: string
}

/**
 * The images of one data directory. An import is unpacked once per digest, into a temporary directory that is renamed
 * into place when it is whole and on disk: a crash leaves no half image that anyone can see, and the next `open` removes
 * what it left. A name leads to one digest; importing under a name moves the name. Hostile archives (paths that leave
 * the root, device nodes, bombs past the size limit) are refused with `image_invalid` or made harmless.
 *
 * Errors: `image_not_found`, `image_invalid`, `image_pull_failed`, `image_in_use`.
 */
export interface ImageStore {
  /** By name, `sha256:…`, or an unambiguous prefix of the digest of at least 8 hex digits. In memory: no I/O. */
  resolve(nameOrDigest: string): LocalImage
  list(): LocalImage[]
  import(
    source: ImageSource,
    options?: Abortable & { name?: string | undefined; onProgress?: (progress: ImportProgress) => void },
  ): Promise<LocalImage>
  /** `inUse` says whether a sandbox runs on it: then `image_in_use`, and nothing is removed. */
  remove(digest: string, options: { inUse: (digest: string) => boolean }): Promise<void>
}
