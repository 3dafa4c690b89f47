import { BrambleError, type CoordinatorFrame, type LeaseRef, type WorkerFrame } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import type { Network, OpenSession } from '../network/network.ts'
import { aNodeId } from '../testing/records.ts'
import { networkBy } from './calls.ts'
import { holdSession } from './held-session.ts'

const ref = (n: number): LeaseRef => ({ execution: `exe_${n}` as LeaseRef['execution'], token: n })
const notLeader = (): BrambleError => new BrambleError('not_leader', { detail: 'it is gone' })

/** A writer with one session, whose answers the test gives. */
const aWriter = (keep: readonly LeaseRef[] = [], refuse?: BrambleError) => {
  const opened: OpenSession[] = []
  const frames: WorkerFrame[] = []
  const answers: PromiseWithResolvers<void>[] = []
  let closed = 0
  let say = (_frame: CoordinatorFrame): void => {}
  const network: Network = networkBy(async () => undefined as never, {
    events: async function* () {},
    close: async () => {},
    session: async (command, deliver) => {
      if (refuse) throw refuse
      opened.push(command)
      say = deliver
      return {
        welcome: { type: 'welcome', session: 's', heartbeatMs: 1, leaseMs: 1, keep: [...keep] },
        frame: (frame) => {
          frames.push(frame)
          const answer = Promise.withResolvers<void>()
          answers.push(answer)
          return answer.promise
        },
        close: () => {
          closed++
        },
      }
    },
  })
  return { network, opened, frames, answers, say: (frame: CoordinatorFrame) => say(frame), closed: () => closed }
}

const hold = async (writer: ReturnType<typeof aWriter>, running: LeaseRef[] = []) => {
  const delivered: CoordinatorFrame[] = []
  const told = { lost: 0, closed: 0 }
  const held = await holdSession({
    network: writer.network,
    command: { node: aNodeId(1), report: { version: 'first' } as never, running, subnet: '10.0.0' },
    deliver: (frame) => delivered.push(frame),
    onLost: () => told.lost++,
    onClosed: () => told.closed++,
  })
  return { held, session: held.session, delivered, told }
}

const lease = (...refs: LeaseRef[]): CoordinatorFrame => ({ type: 'lease', items: refs as never })
const ack = (...refs: LeaseRef[]): CoordinatorFrame => ({ type: 'ack', items: refs })
const commit = (...refs: LeaseRef[]): WorkerFrame => ({ type: 'commit', items: refs as never })
const beat: WorkerFrame = { type: 'beat', running: [] }

describe('a worker’s session that outlives the writer', () => {
  test('tells the next one what the worker runs, and the worker what to stop', async () => {
    const first = aWriter([ref(1)])
    const { held, session, delivered } = await hold(first, [ref(1), ref(9)])
    first.say(lease(ref(2), ref(3), ref(4), ref(5)))
    void session.frame(commit(ref(3))).catch(() => {})
    first.say(ack(ref(3)))
    first.say({ type: 'cancel', items: [{ ...ref(4), reason: 'unneeded' }] })
    void session.frame({ type: 'report', report: { version: 'second' } as never }).catch(() => {})
    held.lost()
    first.say(lease(ref(7)))
    const second = aWriter([ref(1), ref(2)])
    await held.reopen(second.network)
    expect(second.opened).toMatchObject([{ node: aNodeId(1), report: { version: 'second' }, subnet: '10.0.0' }])
    expect([first.opened[0]?.since, second.opened[0]?.since]).toEqual([undefined, 's'])
    expect(second.opened[0]?.running).toEqual([ref(1), ref(2), ref(5)])
    expect(delivered.at(-1)).toEqual({ type: 'cancel', items: [{ ...ref(5), reason: 'lease_lost' }] })
    expect(delivered).not.toContainEqual(lease(ref(7)))
    // What was stopped is not told of again.
    const third = aWriter([])
    await held.reopen(third.network)
    expect(third.opened[0]?.running).toEqual([ref(1), ref(2)])
  })

  test('says again, in order, what nobody took: results, not signs of life', async () => {
    const first = aWriter()
    const { held, session, told } = await hold(first)
    first.say(lease(ref(1), ref(2)))
    const taken = session.frame({ type: 'started', items: [ref(1), ref(2)] })
    first.answers[0]?.resolve()
    await taken
    const results = [session.frame(commit(ref(1))), session.frame(commit(ref(2)))]
    const alive = session.frame(beat)
    first.answers[1]?.reject(notLeader())
    await alive
    await expect.poll(() => told.lost).toBe(1)
    // While nobody writes.
    await session.frame(beat)
    const failed = session.frame({ type: 'failed', items: [{ ...ref(3), code: 'x', message: 'y' }] })
    const second = aWriter()
    await held.reopen(second.network)
    expect(second.frames).toEqual([commit(ref(1)), commit(ref(2)), expect.objectContaining({ type: 'failed' })])
    // A result that waits to be taken is not stopped.
    for (const answer of second.answers) answer.resolve()
    await Promise.all([...results, failed])
    // An answer of the first that comes now is of no account.
    first.answers[2]?.reject(notLeader())
    const third = session.frame(beat)
    second.answers[3]?.resolve()
    await third
    expect(told.lost).toBe(1)
  })

  test('keeps that the worker takes nothing new', async () => {
    const first = aWriter()
    const { held, session } = await hold(first)
    const drained = session.frame({ type: 'drain' })
    first.answers[0]?.resolve()
    await drained
    const second = aWriter()
    await held.reopen(second.network)
    expect(second.frames).toEqual([{ type: 'drain' }])
  })

  test('passes on what is wrong with a frame, or with the node', async () => {
    const first = aWriter()
    const { held, session, delivered } = await hold(first)
    const refused = session.frame(beat)
    first.answers[0]?.reject(new BrambleError('node_suspended', { detail: 'it lied' }))
    await expect(refused).rejects.toMatchObject({ code: 'node_suspended' })
    await expect(held.reopen(aWriter([], notLeader()).network)).rejects.toMatchObject({ code: 'not_leader' })
    await held.reopen(aWriter([], new BrambleError('node_suspended', { detail: 'it lied' })).network)
    expect(delivered).toMatchObject([{ type: 'bye', error: { code: 'node_suspended' } }])
  })

  test('is closed once, and then nothing waits and nothing is opened', async () => {
    const first = aWriter()
    const { held, session, told } = await hold(first)
    const said = session.frame(commit(ref(1)))
    session.close()
    session.close()
    await said
    await session.frame(beat)
    const second = aWriter()
    await held.reopen(second.network)
    expect([told.closed, first.closed(), second.opened.length]).toEqual([1, 1, 0])
  })
})
