import { describe, expect, test } from 'vitest'
import { frameCodec, generateSecretKey } from './index.ts'
import { frameCodec as nodeFrameCodec } from './node/index.ts'

const key = generateSecretKey()

describe.each([
  ['anywhere', frameCodec, frameCodec],
  ['in Node', nodeFrameCodec, nodeFrameCodec],
  ['between the two', frameCodec, nodeFrameCodec],
] as const)('%s', (_name, atWorker, atCoordinator) => {
  const pair = () => [atWorker({ key, side: 'worker' }), atCoordinator({ key, side: 'coordinator' })] as const
  const invalid = expect.objectContaining({ code: 'signature_invalid' })

  test('frames arrive as they were sent, both ways', () => {
    const [worker, coordinator] = pair()
    for (const text of ['', '{}', 'ü 𝄞', 'x'.repeat(100_000)]) {
      expect(coordinator.open(worker.seal(text))).toBe(text)
      expect(worker.open(coordinator.seal(text))).toBe(text)
    }
  })

  test('a frame cannot be changed, repeated, left out, moved, or sent back', () => {
    const frames = () => {
      const [worker, coordinator] = pair()
      return { worker, coordinator, first: worker.seal('one'), second: worker.seal('two') }
    }
    const changed = frames()
    expect(() => changed.coordinator.open(`${changed.first}!`)).toThrow(invalid)
    const repeated = frames()
    repeated.coordinator.open(repeated.first)
    expect(() => repeated.coordinator.open(repeated.first)).toThrow(invalid)
    const leftOut = frames()
    expect(() => leftOut.coordinator.open(leftOut.second)).toThrow(invalid)
    const sentBack = frames()
    expect(() => sentBack.worker.open(sentBack.first)).toThrow(invalid)
  })

  test('the code is of this key, and of its whole length', () => {
    const [worker] = pair()
    const frame = worker.seal('one')
    const strangers = atCoordinator({ key: generateSecretKey(), side: 'coordinator' })
    expect(() => strangers.open(frame)).toThrow(invalid)
    for (const short of ['', 'A', frame.slice(0, 21), frame.slice(1)])
      expect(() => pair()[1].open(short)).toThrow(invalid)
  })
})
