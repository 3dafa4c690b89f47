import { createHash } from 'node:crypto'
import type { ImageStore, LocalImage } from '@bramble/runtime'

/** The one image of benches over the runtime in memory, which never looks at its files. */
export const image: LocalImage = {
  digest: `sha256:${createHash('sha256').update('bench').digest('hex')}`,
  names: ['base'],
  source: 'bench',
  sizeBytes: 0,
  createdAt: new Date().toISOString(),
  config: { env: {}, workdir: '/', user: 'root' },
  rootfs: '/nonexistent',
}

export const images: ImageStore = {
  resolve: () => image,
  list: () => [image],
  import: async () => image,
  remove: async () => {},
}

const WARM_UP = 300

/** Milliseconds of `count` calls, one after the other, after some that are not counted. */
export const measure = async (run: () => Promise<unknown>, count: number): Promise<number[]> => {
  for (let i = 0; i < WARM_UP; i++) await run()
  const samples: number[] = []
  for (let i = 0; i < count; i++) {
    const began = performance.now()
    await run()
    samples.push(performance.now() - began)
  }
  return samples
}

export const percentiles = (samples: readonly number[]): { p50: number; p99: number; mean: number } => {
  const sorted = samples.toSorted((a, b) => a - b)
  const at = (share: number): number => sorted[Math.floor(sorted.length * share)] ?? Number.NaN
  return { p50: at(0.5), p99: at(0.99), mean: samples.reduce((sum, ms) => sum + ms, 0) / samples.length }
}
