import { BrambleError, type ErrorCode } from '@bramble/protocol'

/** What errno(3) says of the disk, and not of the request. */
const CODES: Readonly<Record<string, ErrorCode>> = {
  ENOSPC: 'store_full',
  EDQUOT: 'store_full',
  EROFS: 'store_read_only',
}

export const isErrno = (thrown: unknown, ...codes: string[]): boolean =>
  thrown instanceof Error && 'code' in thrown && codes.includes(String(thrown.code))

/** A failed system call as the error of a store; everything else as it is. */
export const asStoreError = (thrown: unknown): unknown => {
  if (!(thrown instanceof Error) || !('syscall' in thrown) || !('code' in thrown)) return thrown
  const code = CODES[String(thrown.code)] ?? 'store_unavailable'
  return new BrambleError(code, { detail: `fs: ${thrown.message}`, cause: thrown })
}

/** Awaits `run`, and gives what fails of the disk as an error of the store. */
export const onDisk = async <T>(run: () => Promise<T>): Promise<T> => {
  try {
    return await run()
  } catch (thrown) {
    throw asStoreError(thrown)
  }
}
