import { describe, expect, onTestFinished, test } from 'vitest'
import { createQuiet } from './quiet.ts'

const setUp = () => {
  const state = { now: 0 }
  const quiet = createQuiet({ clock: { now: () => state.now, monotonicMs: () => state.now }, quietMs: 4 })
  onTestFinished(() => quiet.close())
  return { quiet, state }
}

describe('quiet', () => {
  test('work runs once, however often it is asked for', async () => {
    const { quiet, state } = setUp()
    let runs = 0
    const ran = new Promise<void>((resolve) => {
      const work = () => {
        runs++
        resolve()
      }
      quiet.whenQuiet(work, 1000)
      quiet.whenQuiet(work, 1000)
    })
    state.now = 10
    await ran
    await new Promise(setImmediate)
    expect(runs).toBe(1)
  })

  test('what is due runs though it is not quiet; what can wait, waits for it', async () => {
    const { quiet, state } = setUp()
    const order: string[] = []
    const last = new Promise<void>((resolve) => {
      quiet.whenQuiet(() => {
        order.push('patient')
        resolve()
      }, 1_000_000)
      quiet.whenQuiet(() => {
        order.push('due')
        // From here on nothing happens any more.
        state.now = 100
      }, 5)
    })
    state.now = 6
    quiet.touch()
    await last
    expect(order).toEqual(['due', 'patient'])
  })

  test('closed, it runs nothing', async () => {
    const { quiet } = setUp()
    quiet.whenQuiet(() => expect.unreachable(), 0)
    quiet.close()
    // Timers of one length fire in the order they were set: the work's would be first.
    await new Promise((resolve) => setTimeout(resolve, 0))
  })
})
