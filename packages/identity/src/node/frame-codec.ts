import { createHmac, createSecretKey } from 'node:crypto'
import { type FrameCodec, type FrameCodecOptions, frameCodecBy } from '../frame-codec.ts'

/** As `frameCodec` of `@bramble/identity`, by OpenSSL. */
export const frameCodec = ({ key, side }: FrameCodecOptions): FrameCodec => {
  // Bytes are made a key anew for each code, which takes four times as long as the code.
  const secret = createSecretKey(key)
  return frameCodecBy((prefix, text) => {
    const digest = createHmac('sha256', secret).update(prefix).update(text, 'utf8').digest()
    return digest.subarray(0, 16).toString('base64url')
  }, side)
}
