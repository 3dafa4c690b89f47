import type { BlobHash } from '@bramble/protocol'
import { onTestFinished, type TestContext } from 'vitest'
import type { BlobStore } from '../blob-store.ts'

/** A store under test, over bytes that nothing else uses. */
export interface StoreSubject {
  readonly store: BlobStore
  /** Closes the store and opens another over the same bytes. Missing: nothing outlives the store. */
  reopen?(): Promise<BlobStore>
  /** Changes a bit of what is stored of the blob, in every place that has it. Missing: nobody can reach it. */
  damage?(hash: BlobHash): Promise<void>
  /** Removes what was made, after the store was closed. */
  close(): Promise<void>
}

export interface StoreSubjectOptions {
  /** Why this host cannot run the driver goes into `skip`. */
  open(): Promise<StoreSubject | { readonly skip: string }>
  /** A blob of this size is put and read in bounded memory; 0 where memory is what the driver stores in. Default 128 MiB. */
  readonly largeBytes?: number
}

export interface OpenedSubject extends StoreSubject {
  readonly largeBytes: number
}

export type OpenStore = (context: TestContext) => Promise<OpenedSubject>

const defaultLargeBytes = 128 * 1024 * 1024

/** Drivers that must not be skipped: `REQUIRE_DRIVERS=s3`. */
export const required = (name: string): boolean =>
  (process.env.REQUIRE_DRIVERS ?? '').split(',').includes(name.split(' ')[0] ?? '')

export const skip = (context: TestContext, reason: string): never => {
  process.stderr.write(`skipped: ${context.task.name}: ${reason}\n`)
  return context.skip(reason)
}

/** Opens a subject for one test, and closes it after that. */
export const useStore =
  (name: string, options: StoreSubjectOptions): OpenStore =>
  async (context) => {
    const opened = await options.open()
    if ('skip' in opened) {
      if (required(name)) throw new Error(`REQUIRE_DRIVERS names ${name}, which this host cannot run: ${opened.skip}`)
      return skip(context, opened.skip)
    }
    let store = opened.store
    onTestFinished(async () => {
      await store.close()
      await store.close()
      await opened.close()
    })
    const { reopen } = opened
    return {
      ...opened,
      largeBytes: options.largeBytes ?? defaultLargeBytes,
      ...(reopen && {
        reopen: async () => {
          store = await reopen()
          return store
        },
      }),
    }
  }
