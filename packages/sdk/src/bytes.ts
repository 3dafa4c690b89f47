import type { Encoding } from '@bramble/protocol'

type NativeBase64 = { fromBase64?: (text: string) => Uint8Array<ArrayBuffer> }

const CHUNK_BYTES = 0x8000

/** Bytes as base64, where the platform is a browser or Node. */
export const toBase64 = (bytes: Uint8Array): string => {
  const native = (bytes as { toBase64?: () => string }).toBase64
  if (native !== undefined) return native.call(bytes)
  let binary = ''
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES)
    binary += String.fromCharCode(...bytes.subarray(at, at + CHUNK_BYTES))
  return btoa(binary)
}

export const fromBase64 = (text: string): Uint8Array<ArrayBuffer> => {
  const native = (Uint8Array as NativeBase64).fromBase64
  if (native !== undefined) return native(text)
  const binary = atob(text)
  const bytes = new Uint8Array(binary.length)
  for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at)
  return bytes
}

/** The bytes of output as an event or a result writes it: UTF-8 text, or base64 where `encoding` says so. */
export const outputBytes = (data: string, encoding: Encoding | undefined): Uint8Array<ArrayBuffer> =>
  encoding === 'base64' ? fromBase64(data) : new TextEncoder().encode(data)

export const joinBytes = (pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> => {
  const whole = new Uint8Array(pieces.reduce((bytes, piece) => bytes + piece.length, 0))
  let at = 0
  for (const piece of pieces) {
    whole.set(piece, at)
    at += piece.length
  }
  return whole
}
