export type { FrameCodec } from '../frame-codec.ts'
export * from './frame-codec.ts'
export * from './load-identity.ts'
export * from './wasm-curve.ts'
