import { describe } from 'vitest'
import { testBlobs } from './testing/blobs.ts'
import { testLeases } from './testing/leases.ts'
import { testNames } from './testing/names.ts'
import { testRanges } from './testing/ranges.ts'
import { testStreaming } from './testing/streaming.ts'
import { type StoreSubjectOptions, useStore } from './testing/subject.ts'

export { bytesOf, noise, text } from './testing/bytes.ts'
export { type CrashRun, killAtEveryStep } from './testing/crash-steps.ts'
export { useS3Server } from './testing/s3-subject.ts'
export type { StoreSubject, StoreSubjectOptions } from './testing/subject.ts'

/**
 * The contract of a `BlobStore`, run by every driver with one call in a test file of its own. Each test has a store of its
 * own, which is empty. What a driver cannot be tried for is skipped, with the reason.
 */
export const testBlobStore = (name: string, options: StoreSubjectOptions): void => {
  describe(`blob store ${name}`, () => {
    const open = useStore(name, options)
    testBlobs(open)
    testRanges(open)
    testStreaming(open)
    testNames(open)
    testLeases(open)
  })
}
