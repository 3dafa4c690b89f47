import { BrambleError } from '@bramble/protocol'
import { hmac } from '@noble/hashes/hmac.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { utf8ToBytes } from '@noble/hashes/utils.js'
import { toBase64Url } from './base64.ts'

/** Codes of the frames of one session. Frames are sealed and opened in the order of the connection, by one codec at each end. */
export interface FrameCodec {
  /** The next frame to send: its code of 22 characters, then its text. */
  seal(text: string): string
  /** The text of the next frame that came. Throws `signature_invalid` for any other: the session is over then. */
  open(data: string): string
}

export interface FrameCodecOptions {
  /** 32 bytes: `sessionKey` of an identity. */
  readonly key: Uint8Array
  /** Whose end this is. */
  readonly side: Side
}
export type Side = 'worker' | 'coordinator'

/** The code of a frame: HMAC-SHA-256 over the sender's side, the frame's number (64 bits) and its text; 16 bytes in base64url. */
export type FrameCode = (prefix: Uint8Array, text: string) => string

const CODE_CHARS = 22

/** Equal, found in a time that does not tell how much of it is. */
const sameCode = (left: string, right: string): boolean => {
  let difference = left.length ^ right.length
  for (let index = 0; index < CODE_CHARS; index += 1) difference |= left.charCodeAt(index) ^ right.charCodeAt(index)
  return difference === 0
}

/** The side and the number of the frames of one direction, one after the other. */
const numbered = (side: Side): (() => Uint8Array) => {
  const prefix = new Uint8Array(side.length + 8)
  prefix.set(utf8ToBytes(side))
  const view = new DataView(prefix.buffer)
  let number = 0n
  return () => {
    view.setBigUint64(side.length, number)
    number += 1n
    return prefix
  }
}

export const frameCodecBy = (code: FrameCode, side: Side): FrameCodec => {
  const sent = numbered(side)
  const received = numbered(side === 'worker' ? 'coordinator' : 'worker')
  return {
    seal: (text) => code(sent(), text) + text,
    open: (data) => {
      const text = data.slice(CODE_CHARS)
      if (!sameCode(code(received(), text), data.slice(0, CODE_CHARS)))
        throw new BrambleError('signature_invalid', { detail: 'a frame is not the next one of its session' })
      return text
    },
  }
}

/** A codec that works anywhere; `@bramble/identity/node` has one that is faster. */
export const frameCodec = ({ key, side }: FrameCodecOptions): FrameCodec => {
  const keyed = hmac.create(sha256, key)
  return frameCodecBy((prefix, text) => {
    const digest = keyed.clone().update(prefix).update(utf8ToBytes(text)).digest()
    return toBase64Url(digest.subarray(0, 16))
  }, side)
}
