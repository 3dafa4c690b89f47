import { BrambleError, type Quota } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import type { Claim } from './accounts.ts'
import { type Admission, createAdmission, isWaiting, type Place, type Waiting } from './admission.ts'
import { emptyLoad } from './load.ts'

const claim = (
  tenant: string,
  options: { key?: string; cpus?: number; memoryMb?: number; quota?: Quota } = {},
): Claim => ({
  tenant,
  keyId: options.key ?? `${tenant}-key`,
  cpus: options.cpus ?? 1,
  memoryMb: options.memoryMb ?? 100,
  quota: options.quota,
})

const setUp = (limits: Partial<Parameters<typeof createAdmission>[0]['limits']> = {}) => {
  const load = emptyLoad()
  let now = 0
  const clock = { now: () => now, monotonicMs: () => now }
  const admission = createAdmission({
    limits: {
      maxRunning: 2,
      maxRunningInstances: 2,
      maxQueued: 8,
      maxQueuedOverQuota: 2,
      maxMemoryMb: 1000,
      maxEnding: 4,
      ...limits,
    },
    load,
    clock,
  })
  return { admission, load, advance: (ms: number) => (now += ms) }
}

const placed = (entered: Place | Waiting): Place => {
  if (isWaiting(entered)) throw new Error('it waits')
  return entered
}
const waits = (entered: Place | Waiting): Waiting => {
  if (!isWaiting(entered)) throw new Error('it has a place')
  return entered
}
const codeOf = (run: () => unknown): string | undefined => {
  try {
    run()
  } catch (error) {
    if (error instanceof BrambleError) return error.code
    throw error
  }
  return undefined
}

/** Enters for each tenant in `order`; the answer lists the names in the order in which they got a place. */
const served = async (admission: Admission, held: Place, order: readonly string[]): Promise<string[]> => {
  const names: string[] = []
  const all = order.map(async (name, index) => {
    const place = await waits(admission.enter(claim(name.replace(/\d/, ''), { key: `key-${name}-${index}` }))).granted
    names.push(name)
    place?.release()
  })
  held.release()
  await Promise.all(all)
  return names
}

describe('admission', () => {
  test('grants at once while there is room, queues past it, and a release lets the next one in', async () => {
    const { admission } = setUp()
    const first = placed(admission.enter(claim('a')))
    placed(admission.enter(claim('a')))
    const third = waits(admission.enter(claim('a')))
    expect([admission.running, admission.queued]).toEqual([2, 1])
    first.release()
    first.release()
    expect(await third.granted).toBeDefined()
    expect([admission.running, admission.queued]).toEqual([2, 0])
  })

  test('serves tenants in turn, whoever came first with many', async () => {
    const { admission } = setUp({ maxRunning: 1 })
    const held = placed(admission.enter(claim('x')))
    expect(await served(admission, held, ['a1', 'a2', 'a3', 'b1', 'b2', 'c1'])).toEqual([
      'a1',
      'b1',
      'c1',
      'a2',
      'b2',
      'a3',
    ])
  })

  test('a full queue is refused with a time to come again that grows with the durations seen', () => {
    const { admission, advance } = setUp({ maxRunning: 1, maxQueued: 1 })
    const refused = (): BrambleError => {
      try {
        admission.enter(claim('b'))
      } catch (error) {
        if (error instanceof BrambleError) return error
      }
      throw new Error('it was not refused')
    }
    let place = placed(admission.enter(claim('a')))
    const waiting = waits(admission.enter(claim('a')))
    const early = refused()
    expect(early.code).toBe('queue_full')
    waiting.leave()
    advance(20_000)
    place.release()
    place = placed(admission.enter(claim('a')))
    waits(admission.enter(claim('a')))
    expect(refused().retryAfterMs).toBeGreaterThan(early.retryAfterMs ?? 0)
    place.release()
  })

  test('one tenant cannot fill the queue of all', () => {
    const { admission } = setUp({ maxRunning: 1, maxQueued: 4 })
    placed(admission.enter(claim('a')))
    for (let i = 0; i < 3; i++) waits(admission.enter(claim('a')))
    expect(codeOf(() => admission.enter(claim('a')))).toBe('queue_full')
    waits(admission.enter(claim('b')))
    expect(codeOf(() => admission.enter(claim('c')))).toBe('queue_full')
  })

  test('a quota makes its own key wait, then refuses it, and holds nobody else back', async () => {
    const { admission } = setUp({ maxRunning: 10 })
    const quota = { concurrentSandboxes: 1 }
    const first = placed(admission.enter(claim('a', { quota })))
    const second = waits(admission.enter(claim('a', { quota })))
    waits(admission.enter(claim('a', { quota })))
    expect(codeOf(() => admission.enter(claim('a', { quota })))).toBe('quota_exceeded')
    const otherKey = waits(admission.enter(claim('a', { key: 'other' })))
    expect(await otherKey.granted).toBeDefined()
    const other = waits(admission.enter(claim('b')))
    expect(await other.granted).toBeDefined()
    first.release()
    expect(await second.granted).toBeDefined()
    expect(admission.queued).toBe(1)
  })

  test('what a quota can never allow is refused at once', () => {
    const { admission } = setUp()
    expect(codeOf(() => admission.enter(claim('a', { cpus: 2, quota: { cpus: 1 } })))).toBe('quota_exceeded')
    expect(codeOf(() => admission.enter(claim('a', { memoryMb: 200, quota: { memoryMb: 100 } })))).toBe(
      'quota_exceeded',
    )
  })

  test('quotas of cpus and memory count what runs', async () => {
    const { admission } = setUp({ maxRunning: 10 })
    const quota = { cpus: 1.5, memoryMb: 300 }
    const first = placed(admission.enter(claim('a', { cpus: 1, memoryMb: 100, quota })))
    const cpus = waits(admission.enter(claim('a', { cpus: 1, memoryMb: 100, quota })))
    first.release()
    expect(await cpus.granted).toBeDefined()
    const memory = waits(admission.enter(claim('a', { cpus: 0.1, memoryMb: 250, quota })))
    expect(admission.queued).toBe(1)
    memory.leave()
    expect(await memory.granted).toBeUndefined()
  })

  test('the memory of the node bounds what runs; more than all of it is unsupported', async () => {
    const { admission, load } = setUp({ maxRunning: 10, maxMemoryMb: 1000 })
    expect(codeOf(() => admission.enter(claim('a', { memoryMb: 1001 })))).toBe('unsupported')
    const large = placed(admission.enter(claim('a', { memoryMb: 900 })))
    const next = waits(admission.enter(claim('b', { memoryMb: 200 })))
    load.endingMb = 900
    large.release()
    expect(admission.queued).toBe(1)
    load.endingMb = 0
    admission.wake()
    expect(await next.granted).toBeDefined()
  })

  test('small ones go before one that is too large, but not for ever', async () => {
    const { admission } = setUp({ maxRunning: 10, maxQueued: 200, maxMemoryMb: 1000 })
    const held = placed(admission.enter(claim('a', { memoryMb: 500 })))
    const large = waits(admission.enter(claim('a', { memoryMb: 800 })))
    let wentFirst = 0
    for (;;) {
      const entered = waits(admission.enter(claim('b', { memoryMb: 10 })))
      if (admission.queued > 1) {
        entered.leave()
        break
      }
      wentFirst++
      ;(await entered.granted)?.release()
    }
    expect(wentFirst).toBeGreaterThan(0)
    held.release()
    expect(await large.granted).toBeDefined()
  })

  test('too many sandboxes on their way out hold back what comes', async () => {
    const { admission, load } = setUp({ maxEnding: 1 })
    load.ending = 1
    const waiting = waits(admission.enter(claim('a')))
    load.ending = 0
    admission.wake()
    expect(await waiting.granted).toBeDefined()
  })

  test('closing refuses who waits and who comes', async () => {
    const { admission } = setUp({ maxRunning: 1 })
    placed(admission.enter(claim('a')))
    const waiting = waits(admission.enter(claim('a')))
    admission.close()
    await expect(waiting.granted).rejects.toMatchObject({ code: 'shutting_down' })
    expect(codeOf(() => admission.enter(claim('a')))).toBe('shutting_down')
  })
})

describe('an instance', () => {
  const lasting = (options: Partial<Claim> = {}): Claim => ({ ...claim('a'), lasting: true, ...options })

  test('takes no place of an execution, and leaves none to too many instances', () => {
    const { admission } = setUp()
    placed(admission.enter(claim('a')))
    placed(admission.enter(claim('a')))
    const first = placed(admission.enter(lasting()))
    placed(admission.enter(lasting()))
    expect(admission.running).toBe(2)
    expect(isWaiting(admission.enter(claim('a')))).toBe(true)
    const third = admission.enter(lasting())
    expect(isWaiting(third)).toBe(true)
    first.release()
    expect(admission.queued).toBe(1)
  })

  test('that waits holds up no execution of its key', async () => {
    const { admission } = setUp()
    for (let i = 0; i < 2; i++) placed(admission.enter(lasting()))
    const waiting = admission.enter(lasting())
    if (!isWaiting(waiting)) throw new Error('it did not wait')
    const running = admission.enter(claim('a'))
    expect(await (isWaiting(running) ? running.granted : running)).toBeDefined()
    expect(admission.queued).toBe(1)
    waiting.leave()
    expect(await waiting.granted).toBeUndefined()
    expect(admission.queued).toBe(0)
  })

  test('that runs already is counted, whatever the quota says', () => {
    const { admission } = setUp()
    const quota = { concurrentSandboxes: 1 }
    admission.hold(lasting({ quota }))
    const held = admission.hold(lasting({ quota }))
    const next = admission.enter(lasting({ quota }))
    expect(isWaiting(next) && next.overQuota).toBe(true)
    held.release()
    held.release()
    expect(admission.queued).toBe(1)
  })
})
