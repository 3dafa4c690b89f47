import { randomUUID } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { ReadableStream as NodeStream } from 'node:stream/web'
import type { Snapshot } from '@bramble/protocol'
import type { Bramble } from '../bramble.ts'
import type { ExportOptions, ImportOptions } from '../snapshots/snapshots.ts'
import type { StateRef } from '../snapshots/state-ref.ts'

/** Writes a snapshot to a file of this host: whole, or not at all. A file that is there already is replaced. */
export const exportSnapshot = async (
  bramble: Pick<Bramble, 'snapshots'>,
  snapshot: StateRef,
  path: string,
  options: ExportOptions = {},
): Promise<void> => {
  const partial = `${path}.${randomUUID().slice(0, 8)}.part`
  const body = await bramble.snapshots.export(snapshot, options)
  try {
    const file = createWriteStream(partial, { flags: 'wx', mode: 0o600, flush: true })
    await pipeline(Readable.fromWeb(body as NodeStream), file)
    await rename(partial, path)
  } finally {
    await rm(partial, { force: true })
  }
}

/** Brings in a snapshot from a file of this host, never holding it as a whole. */
export const importSnapshot = (
  bramble: Pick<Bramble, 'snapshots'>,
  path: string,
  options: ImportOptions = {},
): Promise<Snapshot> => bramble.snapshots.import(createReadStream(path), options)
