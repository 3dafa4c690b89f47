import { constants } from 'node:fs'
import { chmod, lstat, mkdir, open, rm, symlink, utimes } from 'node:fs/promises'
import { dirname, resolve, sep } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { BrambleError } from '@bramble/protocol'
import { extract, type Header } from 'tar-stream'
import type { FileCall, FilePath } from '../instances/files.ts'
import type { Instance } from '../instances/instance.ts'

export interface DownloadOptions extends FileCall {
  /** Told of each piece of content as it is written. */
  readonly onBytes?: ((bytes: number) => void) | undefined
}

export interface Downloaded {
  readonly files: number
  readonly bytes: number
  /** Devices and the like, which are not made here. */
  readonly skipped: number
}

/** Of a file from a sandbox: no set-user-id, set-group-id or sticky bit comes to this host. */
const MODE_BITS = 0o777
const WRITE = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW

/**
 * Takes a file or a tree out of an instance into a directory of this host, which is made. What is in the sandbox is not
 * trusted: names that would lead out of the directory are refused (`bad_response`), through links too; a file that is there
 * already is replaced, a link at its place removed and not followed; owners stay this user's.
 */
export const downloadDirectory = async (
  instance: Pick<Instance, 'files'>,
  path: FilePath,
  localPath: string,
  options: DownloadOptions = {},
): Promise<Downloaded> => {
  const { onBytes, ...call } = options
  const root = resolve(localPath)
  await mkdir(root, { recursive: true })
  const place = newPlace(root, onBytes)
  const archive = extract()
  const fed = pipeline(Readable.from(await instance.files.download(path, call), { objectMode: false }), archive)
  fed.catch(() => undefined)
  for await (const entry of archive) {
    await place.take(entry.header, entry as unknown as AsyncIterable<Uint8Array>)
    entry.resume()
  }
  await fed
  return place.finish()
}

const newPlace = (root: string, onBytes: DownloadOptions['onBytes']) => {
  /** Directories that are known to be ones, and no links. */
  const checked = new Set([root])
  const links: { path: string; target: string }[] = []
  const directories: { path: string; mode: number; mtime: Date }[] = []
  const done = { files: 0, bytes: 0, skipped: 0 }

  const pathOf = (name: string): string => {
    const path = resolve(root, name.replace(/^\.?\/+/, ''))
    if (name.includes('\0') || name.split('/').includes('..') || (path !== root && !path.startsWith(root + sep)))
      throw new BrambleError('bad_response', {
        detail: `the archive names ${JSON.stringify(name)}, outside of its tree`,
      })
    return path
  }
  const makeDirectory = async (path: string): Promise<void> => {
    if (checked.has(path)) return
    await makeDirectory(dirname(path))
    const there = await lstat(path).catch(() => undefined)
    if (there === undefined) await mkdir(path)
    else if (!there.isDirectory())
      throw new BrambleError('bad_response', { detail: `${path} is here already, and no directory` })
    checked.add(path)
  }
  const writeFile = async (path: string, header: Header, content: AsyncIterable<Uint8Array>): Promise<void> => {
    await makeDirectory(dirname(path))
    await rm(path, { force: true })
    const file = await open(path, WRITE, 0o600)
    const size = header.size ?? 0
    try {
      for await (const piece of content) {
        for (let at = 0; at < piece.length; ) at += (await file.write(piece, at)).bytesWritten
        onBytes?.(piece.length)
      }
      await file.chmod((header.mode ?? 0o644) & MODE_BITS)
      if (header.mtime !== undefined) await file.utimes(header.mtime, header.mtime)
    } finally {
      await file.close()
    }
    done.files++
    done.bytes += size
  }

  return {
    async take(header: Header, content: AsyncIterable<Uint8Array>): Promise<void> {
      const path = pathOf(header.name)
      switch (header.type) {
        case 'file':
        case 'contiguous-file':
          return writeFile(path, header, content)
        case 'directory':
          await makeDirectory(path)
          directories.push({ path, mode: (header.mode ?? 0o755) & MODE_BITS, mtime: header.mtime ?? new Date() })
          return
        case 'symlink':
          links.push({ path, target: header.linkname ?? '' })
          return
        default:
          done.skipped++
      }
    },
    /** Links are made when no file can go through them any more, and the times of directories when nothing changes in them. */
    async finish(): Promise<Downloaded> {
      for (const { path, target } of links) {
        await makeDirectory(dirname(path))
        await rm(path, { force: true })
        await symlink(target, path)
      }
      for (const { path, mode, mtime } of directories.reverse()) {
        if (path === root) continue
        await chmod(path, mode)
        await utimes(path, mtime, mtime)
      }
      return done
    },
  }
}
