import { createReadStream } from 'node:fs'
import type { Snapshot } from '@bramble/protocol'
import type { Bramble } from '../bramble.ts'
import type { ExportOptions, ImportOptions } from '../snapshots/snapshots.ts'
import type { StateRef } from '../snapshots/state-ref.ts'
import { saveStream } from './save-stream.ts'

/** Writes a snapshot to a file of this host: whole, or not at all. A file that is there already is replaced. */
export const exportSnapshot = async (
  bramble: Pick<Bramble, 'snapshots'>,
  snapshot: StateRef,
  path: string,
  options: ExportOptions = {},
): Promise<void> => saveStream(await bramble.snapshots.export(snapshot, options), path)

/** Brings in a snapshot from a file of this host, never holding it as a whole. */
export const importSnapshot = (
  bramble: Pick<Bramble, 'snapshots'>,
  path: string,
  options: ImportOptions = {},
): Promise<Snapshot> => bramble.snapshots.import(createReadStream(path), options)
