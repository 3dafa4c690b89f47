import type { Image } from '@bramble/protocol'
import type { Abortable } from '../runtime.ts'

/** An image on this host: what users see of it, and where its unpacked root filesystem is. */
export interface LocalImage extends Image {
  /** A directory, owned by root, never written after import; files have the owners that the image gives them. */
  readonly rootfs: string
}

/** Where an image comes from. Paths are of this host. */
export type ImageSource =
  /** A root filesystem as a tar archive: plain, gzip, zstd or xz. It has no config of its own. */
  | { readonly kind: 'rootfsTar'; readonly path: string; readonly config?: Partial<ImageRunConfig> }
  /** An OCI layout in a tar archive, or what `docker save` writes; compressed or not. */
  | { readonly kind: 'ociArchive'; readonly path: string }
  | { readonly kind: 'ociLayout'; readonly path: string }
  /** Pulled with skopeo. `insecure`: plain HTTP, and certificates that nobody signed, are taken. */
  | { readonly kind: 'registry'; readonly reference: string; readonly insecure?: boolean }
  /** An image of a Docker Engine; `host` as in DOCKER_HOST, default `unix:///var/run/docker.sock`. */
  | { readonly kind: 'dockerDaemon'; readonly reference: string; readonly host?: string }
  | { readonly kind: 'rootfsDirectory'; readonly path: string; readonly config?: Partial<ImageRunConfig> }
  /**
   * As another node unpacked it: its digest is taken from there, so the source is trusted. `fill` writes its files into an empty
   * directory, of which it may set the attributes, too.
   */
  | { readonly kind: 'unpacked'; readonly image: UnpackedImage; readonly fill: FillRootfs }

export type UnpackedImage = Pick<Image, 'digest' | 'source' | 'config'>
export type FillRootfs = (rootfs: string, options: { readonly signal: AbortSignal }) => Promise<void>

/** What a command gets from its image. */
export type ImageRunConfig = Image['config']

export interface ImportProgress {
  readonly phase: 'build' | 'copy' | 'unpack' | 'commit'
  readonly message: string
  /** Of the phase, 0 to 1; absent where it cannot be known. */
  readonly fraction?: number
}

export type OnImportProgress = (progress: ImportProgress) => void

export interface ImportOptions extends Abortable {
  /**
   * The name to give. Without one, an image from a registry or a Docker Engine gets its reference, less the registry's
   * host; others are found by digest alone.
   */
  readonly name?: string | undefined
  readonly onProgress?: OnImportProgress | undefined
}

/**
 * The images of one data directory. An import is unpacked once per digest, into a temporary directory that is renamed
 * into place when it is whole and on disk: a crash leaves no half image that anyone can see, and the next `open` removes
 * what it left. A name leads to one digest; importing under a name moves the name. Hostile archives (paths that leave
 * the root, bombs past the size limit) are refused with `image_invalid`; device nodes are left out.
 *
 * The digest is that of the image's manifest, as the registry has it. A root filesystem gets a manifest of its own, made
 * of its bytes and config alone: the same tar, however compressed, has the same digest everywhere.
 *
 * Concurrent imports of one digest share the work; each may be aborted by itself, and the work stops when nobody waits
 * for it any more. An aborted import rejects with the signal's reason, after its programs are gone and its files removed.
 *
 * Any process may open a directory to look; one at a time imports into it, or removes from it.
 *
 * Errors: `image_not_found`, `image_invalid`, `image_pull_failed`, `image_in_use`; `invalid_request` for a name that is
 * not one, and `unsupported` where a program is not installed.
 */
export interface ImageStore {
  /** By name, `sha256:…`, or an unambiguous prefix of the digest of at least 8 hex digits. In memory: no I/O. */
  resolve(nameOrDigest: string): LocalImage
  /** Sorted by first name, then by digest; images without a name come last. */
  list(): LocalImage[]
  import(source: ImageSource, options?: ImportOptions): Promise<LocalImage>
  /**
   * Removes an image and all its names. `inUse` says whether a sandbox runs on it: then `image_in_use`, and nothing is
   * removed. It is asked at the moment the image stops being found by `resolve`.
   */
  remove(digest: string, options: { inUse: (digest: string) => boolean }): Promise<void>
}
