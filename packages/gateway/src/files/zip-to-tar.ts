import { text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { BrambleError, LIMITS } from '@bramble/protocol'
import { type Header, type Pack, pack } from 'tar-stream'
import { type Entry, getFileNameLowLevel, openPromise, type ZipFile } from 'yauzl'
import type { GatewayLimits } from '../limits.ts'

const HEADER_BYTES = 512
const AHEAD_BYTES = 1024 * 1024

type ZipLimits = Pick<GatewayLimits, 'maxUnpackedBytes' | 'maxArchiveEntries' | 'maxZipRatio'>

/**
 * The files of a zip archive on disk, as a tar archive: modes and symbolic links where a Unix wrote them. Nothing comes before
 * the whole list of files was looked at; each file is held to the size that it claims there.
 *
 * Errors: `invalid_request` for what is no zip, `body_too_large` for what unpacks to too much, `file_refused` for encrypted
 * files.
 */
export async function* zipToTar(path: string, limits: ZipLimits, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  await check(path, limits)
  const zip = await open(path)
  const tar = pack()
  let failure: Error | undefined
  let over = false
  let takenBytes = 0
  let wake: (() => void) | undefined
  let entries = 0
  /** Files without bytes do not wait for whoever reads the archive by themselves. */
  const notTooFarAhead = async (): Promise<void> => {
    entries++
    while (!over && entries * HEADER_BYTES - takenBytes > AHEAD_BYTES)
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    signal.throwIfAborted()
  }
  const filling = fill(zip, tar, notTooFarAhead).catch((error: unknown) => {
    failure = readable(error)
    tar.destroy(failure)
  })
  try {
    for await (const chunk of tar as AsyncIterable<Uint8Array>) {
      takenBytes += chunk.length
      wake?.()
      yield chunk
    }
  } catch (error) {
    // The archive ends with whatever its last file failed of: what that was, its filling knows.
    await filling
    throw failure ?? error
  } finally {
    over = true
    wake?.()
    tar.destroy()
    await filling
    zip.close()
  }
}

const open = async (path: string): Promise<ZipFile> => {
  try {
    return await openPromise(path, { autoClose: false, decodeStrings: false })
  } catch (error) {
    throw readable(error)
  }
}

/** What yauzl says against an archive is for whoever sent it. */
const readable = (error: unknown): Error => {
  if (error instanceof BrambleError || (error as Error).name === 'AbortError') return error as Error
  const detail = `the archive is not a zip: ${error instanceof Error ? error.message : String(error)}`
  return new BrambleError('invalid_request', { detail, cause: error })
}

const check = async (path: string, limits: ZipLimits): Promise<void> => {
  const zip = await open(path)
  let unpacked = 0
  try {
    if (zip.entryCount > limits.maxArchiveEntries)
      throw new BrambleError('body_too_large', {
        detail: `the archive has more than ${limits.maxArchiveEntries} files`,
      })
    const mostBytes = Math.min(limits.maxUnpackedBytes, zip.fileSize * limits.maxZipRatio)
    for await (const entry of zip.eachEntry()) {
      if (entry.isEncrypted())
        throw new BrambleError('file_refused', { detail: `\`${shownName(entry)}\` is encrypted` })
      unpacked += entry.uncompressedSize
      // Files of a bomb overlap: together they are more than deflate can make of the archive's bytes.
      if (unpacked > mostBytes)
        throw new BrambleError('body_too_large', { detail: `the archive unpacks to more than ${mostBytes} bytes` })
    }
  } catch (error) {
    throw readable(error)
  } finally {
    zip.close()
  }
}

const fill = async (zip: ZipFile, tar: Pack, ready: () => Promise<void>): Promise<void> => {
  for await (const entry of zip.eachEntry()) {
    await ready()
    const header = headerOf(entry)
    if (header.type === 'directory') tar.entry(header)
    else if (header.type === 'symlink') tar.entry({ ...header, linkname: await linkOf(zip, entry) })
    else await pipeline(await zip.openReadStreamPromise(entry), tar.entry({ ...header, size: entry.uncompressedSize }))
  }
  tar.finalize()
}

/** As it stands: what a name may be is the sandbox's to say. */
const nameOf = ({ generalPurposeBitFlag, fileNameRaw, extraFields }: Entry): string =>
  getFileNameLowLevel(generalPurposeBitFlag, fileNameRaw, extraFields, false)

const shownName = (entry: Entry): string => nameOf(entry).slice(0, 256)

const UNIX = 3
const S_IFMT = 0o170000
const S_IFLNK = 0o120000

const headerOf = (
  entry: Entry,
): Pick<Header, 'name' | 'mode' | 'mtime'> & { type: 'directory' | 'symlink' | 'file' } => {
  const unixMode = entry.versionMadeBy >> 8 === UNIX ? entry.externalFileAttributes >>> 16 : 0
  const name = nameOf(entry)
  const directory = name.endsWith('/')
  const type = directory ? 'directory' : (unixMode & S_IFMT) === S_IFLNK ? 'symlink' : 'file'
  const mode = unixMode & 0o777 || (directory ? 0o755 : 0o644)
  return { name, type, mode, mtime: entry.getLastModDate() }
}

const linkOf = async (zip: ZipFile, entry: Entry): Promise<string> => {
  if (entry.uncompressedSize > LIMITS.maxPathBytes.value)
    throw new BrambleError('file_refused', { detail: `\`${shownName(entry)}\` leads to too long a path` })
  return text(await zip.openReadStreamPromise(entry))
}
