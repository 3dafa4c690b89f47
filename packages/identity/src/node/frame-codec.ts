import { createHmac } from 'node:crypto'
import { type FrameCodec, type FrameCodecOptions, frameCodecBy } from '../frame-codec.ts'

/** As `frameCodec` of `@bramble/identity`, by OpenSSL. */
export const frameCodec = ({ key, side }: FrameCodecOptions): FrameCodec =>
  frameCodecBy((prefix, text) => {
    const digest = createHmac('sha256', key).update(prefix).update(text, 'utf8').digest()
    return digest.subarray(0, 16).toString('base64url')
  }, side)
