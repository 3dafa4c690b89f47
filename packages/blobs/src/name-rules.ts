import { BrambleError, LIMITS } from '@bramble/protocol'

const maxNameChars = 512
const SEGMENT = /^[a-zA-Z0-9._-]{1,120}$/

/** Throws `invalid_request` unless it is a name as `NameStore` says. */
export const checkName = (name: string): void => {
  const good =
    name.length <= maxNameChars && name.split('/').every((part) => SEGMENT.test(part) && !/^\.\.?$/.test(part))
  if (!good) throw new BrambleError('invalid_request', { detail: `${JSON.stringify(name.slice(0, 80))} is not a name` })
}

/** Throws `body_too_large` when a value has more than `maxNameValueBytes`. */
export const checkNameValue = (value: Uint8Array): void => {
  if (value.length > LIMITS.maxNameValueBytes.value)
    throw new BrambleError('body_too_large', {
      detail: `a name has a value of ${value.length} bytes, more than ${LIMITS.maxNameValueBytes.value}`,
    })
}
