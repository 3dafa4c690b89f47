import { open, stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import type { ImageInput } from '@bramble/sdk'
import { EXIT, ExitError } from '../exit.ts'

export type ArchiveFormat = 'rootfs' | 'oci'

export interface SourceOptions {
  readonly name?: string
  readonly format?: ArchiveFormat
  readonly insecure?: boolean
}

/** What a reference on the command line means: a path where there is one, `docker:` a Docker Engine, else a registry. */
export const sourceOf = async (reference: string, options: SourceOptions): Promise<ImageInput> => {
  const named = options.name === undefined ? {} : { name: options.name }
  if (reference.startsWith('docker:')) return { dockerImage: reference.slice('docker:'.length), ...named }
  const path = resolve(reference)
  const found = await stat(path).catch(() => undefined)
  if (found === undefined) {
    if (/^\.{0,2}\//.test(reference)) throw new ExitError(EXIT.failure, `${reference}: there is no such file`)
    return { reference, ...named, ...(options.insecure === true && { insecure: true }) }
  }
  if (found.isDirectory()) {
    if (await exists(join(path, 'oci-layout'))) return { ociLayout: path, name: options.name ?? nameOfFile(path) }
    throw new ExitError(
      EXIT.failure,
      `${reference} is a directory, but not an OCI layout`,
      'Give a tar of the root filesystem: `tar -C <directory> -cf rootfs.tar .`',
    )
  }
  const format = options.format ?? ((await isOciArchive(path)) ? 'oci' : 'rootfs')
  if (format === 'oci') return { ociArchive: path, name: options.name ?? nameOfFile(path) }
  return { rootfsTar: path, name: options.name ?? nameOfFile(path) }
}

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  )

/** `rootfs-3.tar.gz` is called `rootfs-3`. */
const nameOfFile = (path: string): string =>
  basename(path)
    .toLowerCase()
    .replace(/\.(tar|tgz|txz|tzst)?(\.(gz|xz|zst|bz2))?$/, '')
    .replace(/[^a-z0-9._-]+/g, '-')
    .replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, '') || 'image'

const BLOCK_BYTES = 512
const MAX_ENTRIES_LOOKED_AT = 4096

/** How the manifest begins that `docker save` writes; a root filesystem may well have another `manifest.json`. */
const DOCKER_MANIFEST = /^\s*\[\s*\{\s*"(Config|RepoTags|Layers)"/

/**
 * Looks through the headers of a plain tar (POSIX pax, ustar) for the file that makes it an OCI archive, or one of `docker
 * save` from before those were OCI archives.
 */
export const isOciArchive = async (path: string): Promise<boolean> => {
  await using file = await open(path)
  const header = Buffer.alloc(BLOCK_BYTES)
  let at = 0
  for (let entries = 0; entries < MAX_ENTRIES_LOOKED_AT; entries++) {
    const { bytesRead } = await file.read(header, 0, BLOCK_BYTES, at)
    if (bytesRead < BLOCK_BYTES || header.toString('latin1', 257, 262) !== 'ustar') return false
    const name = header.toString('utf8', 0, 100).replace(/\0.*$/s, '').replace(/^\.\//, '')
    if (name === 'oci-layout') return true
    if (name === 'manifest.json') {
      const start = Buffer.alloc(64)
      await file.read(start, 0, start.length, at + BLOCK_BYTES)
      if (DOCKER_MANIFEST.test(start.toString('latin1'))) return true
    }
    const size = Number.parseInt(header.toString('latin1', 124, 136), 8)
    if (!Number.isSafeInteger(size) || size < 0) return false
    at += BLOCK_BYTES * (1 + Math.ceil(size / BLOCK_BYTES))
  }
  return false
}
