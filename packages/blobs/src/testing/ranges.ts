import { describe, expect, test } from 'vitest'
import { bytesOf, noise, text } from './bytes.ts'
import type { OpenStore } from './subject.ts'

const KiB = 1024

export const testRanges = (open: OpenStore): void => {
  describe('ranges', () => {
    for (const [name, bytes] of Object.entries({ noise: noise(1300 * KiB + 3), text: text(1300 * KiB + 3) }))
      for (const temperature of ['hot', 'cold'] as const)
        test(`of ${name}, ${temperature}`, async (context) => {
          const { store } = await open(context)
          const { hash, sizeBytes } = await store.put(bytes, { temperature })
          const edges = [0, 1, 64 * KiB, 256 * KiB - 1, 256 * KiB, 256 * KiB + 1, 1024 * KiB, sizeBytes - 1, sizeBytes]
          for (const start of edges)
            for (const end of [undefined, ...edges.filter((edge) => edge >= start)]) {
              const stream = await store.get(hash, { range: { start, end } })
              expect(stream.info.sizeBytes).toBe(sizeBytes)
              expect((await bytesOf(stream)).equals(bytes.subarray(start, end)), `${start} to ${end}`).toBe(true)
            }
        })

    test('of the empty blob', async (context) => {
      const { store } = await open(context)
      const { hash } = await store.put(Buffer.alloc(0))
      expect(await bytesOf(await store.get(hash, { range: { start: 0, end: 0 } }))).toHaveLength(0)
      await expect(store.get(hash, { range: { start: 0, end: 1 } })).rejects.toMatchObject({
        code: 'range_not_satisfiable',
      })
    })

    test('that are not there', async (context) => {
      const { store } = await open(context)
      const { hash } = await store.put(text(1000))
      for (const [start, end] of [
        [0, 1001],
        [1001, undefined],
        [5, 4],
        [-1, 4],
        [0.5, 4],
        [0, Number.NaN],
        [0, Number.POSITIVE_INFINITY],
        [Number.MAX_SAFE_INTEGER, undefined],
      ] as const)
        await expect(store.get(hash, { range: { start, end } }), `${start} to ${end}`).rejects.toMatchObject({
          code: 'range_not_satisfiable',
        })
    })
  })
}
