import { join } from 'node:path'
import { openStore, parseObjectStoreUrl } from '@bramble/blobs'
import { dataDirectory } from '../data-directory.ts'
import { EXIT, ExitError } from '../exit.ts'
import { formatBytes } from '../format.ts'
import { lockDataDirectory } from '../node/data-directory-lock.ts'
import { interrupt } from '../node/interrupt.ts'
import { readNodeConfig } from '../node/node-config.ts'

export interface ObjectStoreOptions {
  readonly dataDir?: string
  readonly json: boolean
}

export interface CollectOptions extends ObjectStoreOptions {
  readonly dryRun: boolean
  readonly graceHours: string
}

const HOUR_MS = 3_600_000

const configured = ({
  dataDir,
}: ObjectStoreOptions): { readonly directory: string; readonly objectStoreUrl: string } => {
  const { dataDirectory: directory, objectStoreUrl } = readNodeConfig({ dataDir }, dataDirectory())
  if (objectStoreUrl === undefined)
    throw new ExitError(EXIT.failure, 'there is no object store', 'Set BRAMBLE_OBJECT_STORE_URL as for the node.')
  return { directory, objectStoreUrl }
}

/** Reads every blob here and its copy in the object store, and heals either. Of a node that does not run: a store has one owner. */
export const verifyStore = async (options: ObjectStoreOptions): Promise<void> => {
  const { directory, objectStoreUrl } = configured(options)
  using interrupted = interrupt()
  const { signal } = interrupted
  using _lock = lockDataDirectory(directory)
  await using store = await openStore({ directory: join(directory, 'blobs'), objectStoreUrl })
  const result = await store.lower?.verify({ signal })
  await store.settled({ signal })
  if (!result) return
  if (options.json) console.log(JSON.stringify(result, null, 2))
  else {
    console.log(`${result.blobs} blobs read, here and in the object store`)
    for (const hash of result.healedLocal) console.log(`healed here:  ${hash}`)
    for (const hash of result.healedShared) console.log(`healed there: ${hash}`)
    for (const hash of result.lost) console.log(`lost:         ${hash}`)
  }
  if (result.lost.length > 0) process.exitCode = EXIT.failure
}

/** Removes from the object store what no node needs. */
export const collectObjectStore = async (options: CollectOptions): Promise<void> => {
  const { objectStoreUrl } = configured(options)
  const hours = Number(options.graceHours)
  if (!Number.isFinite(hours) || hours < 1)
    throw new ExitError(
      EXIT.failure,
      '--grace-hours is a number, and at least 1',
      'Nodes may be bringing what is younger.',
    )
  using interrupted = interrupt()
  const { collectShared } = await import('@bramble/engine')
  const { s3Store } = await import('@bramble/blobs/s3')
  await using shared = s3Store({ location: parseObjectStoreUrl(objectStoreUrl) })
  const { dryRun } = options
  const { signal } = interrupted
  const result = await collectShared(shared, { graceMs: hours * HOUR_MS, dryRun, signal })
  const leftovers = dryRun ? 0 : await shared.sweep({ signal })
  if (options.json) console.log(JSON.stringify({ ...result, leftovers }, null, 2))
  else {
    const verb = dryRun ? 'would be removed' : 'were removed'
    const { removedBlobs, removedStoredBytes, keptBlobs } = result
    console.log(`${removedBlobs} blobs (${formatBytes(removedStoredBytes)}) ${verb}, ${keptBlobs} are kept`)
  }
}
