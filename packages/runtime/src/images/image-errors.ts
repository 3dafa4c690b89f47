import { BrambleError } from '@bramble/protocol'

export const imageInvalid = (detail: string, cause?: unknown): BrambleError =>
  new BrambleError('image_invalid', { detail, ...(cause !== undefined && { cause }) })

export const pullFailed = (detail: string, cause?: unknown): BrambleError =>
  new BrambleError('image_pull_failed', { detail, ...(cause !== undefined && { cause }) })
