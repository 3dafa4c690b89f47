import { verifyReceipts } from '@bramble/identity'
import { wasmCurve } from '@bramble/identity/node'
import { BrambleError, type Lease, LIMITS } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import { openSession } from './open-session.ts'
import type { Execute, Outcome, SessionEvent, SessionOptions } from './session.ts'
import { aLease, anOutcome, openTestCoordinator, REPORT, testIdentity, workerKeys } from './testing.ts'

/** An executor whose executions end when the test says so. */
const byHand = () => {
  const runs = new Map<string, PromiseWithResolvers<Outcome> & { lease: Lease; context: Parameters<Execute>[1] }>()
  const waiters = new Set<() => void>()
  const execute: Execute = (lease, context) => {
    const run = { ...Promise.withResolvers<Outcome>(), lease, context }
    runs.set(lease.execution, run)
    for (const look of waiters) look()
    return run.promise
  }
  const running = async (lease: Lease) => {
    for (;;) {
      const run = runs.get(lease.execution)
      if (run?.lease.token === lease.token) return run
      await new Promise<void>((resolve) => waiters.add(resolve))
    }
  }
  return { execute, running, runs }
}

const session = (url: string, execute: Execute, more: Partial<SessionOptions> = {}) => {
  const identity = testIdentity()
  workerKeys.set(identity.id, identity.publicKey)
  const events: SessionEvent[] = []
  const opened = openSession({
    ...{ url, identity, ephemeral: testIdentity, report: REPORT, execute },
    // Reconnects at once: how long they wait is another test's.
    random: () => 0,
    onEvent: (event) => events.push(event),
    ...more,
  })
  return {
    ...{ session: opened, identity, events },
    // Nobody acknowledges what a test leaves.
    [Symbol.asyncDispose]: () => opened.close({ lastWordsMs: 0 }),
  }
}

const refOf = ({ execution, token }: Lease) => ({ execution, token })

describe('a session', () => {
  test('what ends together goes in one frame, under one signature that holds for each', async () => {
    await using coordinator = await openTestCoordinator()
    const { execute, running } = byHand()
    await using joined = session(coordinator.url, execute)
    const { identity } = joined
    const connection = await coordinator.accept()
    const leases = [aLease(), aLease(), aLease()]
    connection.send({ type: 'lease', items: leases })
    const runs = await Promise.all(leases.map(running))
    for (const run of runs) run.resolve(anOutcome())

    const { items } = await connection.next('commit')
    expect(items.map(({ execution }) => execution).sort()).toEqual(leases.map(({ execution }) => execution).sort())
    const signatures = new Set(items.map(({ receipt }) => receipt.signature))
    expect(signatures.size).toBe(1)
    expect(
      verifyReceipts(
        items.map(({ receipt }) => ({ signed: receipt, publicKey: identity.publicKey })),
        wasmCurve(),
      ),
    ).toEqual([true, true, true])
    expect(items[0]?.receipt.receipt).toMatchObject({
      ...{ network: coordinator.network, node: identity.id, token: 1, inputHash: `0x${'1'.repeat(64)}` },
      ...{ cpuMs: 2, startedAtMs: 1000, finishedAtMs: 2001 },
    })
  })

  test('a result is sent again over new connections until it is acknowledged', async () => {
    await using coordinator = await openTestCoordinator()
    const { execute, running } = byHand()
    await using joined = session(coordinator.url, execute)
    const { session: opened } = joined
    const lease = aLease()
    const first = await coordinator.accept()
    first.send({ type: 'lease', items: [lease] })
    ;(await running(lease)).resolve(anOutcome())
    const sent = await first.next('commit')
    first.cut()

    const second = await coordinator.accept()
    expect(second.hello.running).toEqual([refOf(lease)])
    expect((await second.next('commit')).items).toEqual(sent.items)
    second.send({ type: 'ack', items: [refOf(lease)] })
    await opened.drain()
    expect(opened.held()).toEqual([])
  })

  test('what cannot be taken at the moment is sent again; what is refused is not', async () => {
    await using coordinator = await openTestCoordinator()
    const { execute, running } = byHand()
    await using joined = session(coordinator.url, execute)
    const { session: opened, events } = joined
    const lease = aLease()
    const connection = await coordinator.accept()
    connection.send({ type: 'lease', items: [lease] })
    ;(await running(lease)).resolve(anOutcome())
    await connection.next('commit')
    const busy = new BrambleError('not_leader', { detail: 'nobody writes', retryAfterMs: 1 }).toProblem()
    connection.send({ type: 'ack', items: [{ ...refOf(lease), error: busy }] })
    await connection.next('commit')
    const lost = new BrambleError('lease_lost', { detail: 'too late' }).toProblem()
    connection.send({ type: 'ack', items: [{ ...refOf(lease), error: lost }] })
    await opened.drain()
    expect(events.filter(({ type }) => type === 'acknowledged')).toEqual([
      { type: 'acknowledged', lease: refOf(lease), error: lost },
    ])
  })

  test('a new connection stops what is not kept, and goes on with the rest', async () => {
    await using coordinator = await openTestCoordinator()
    const { execute, running } = byHand()
    await using joined = session(coordinator.url, execute)
    const { session: opened } = joined
    const kept = aLease()
    const dropped = aLease()
    const first = await coordinator.accept()
    first.send({ type: 'lease', items: [kept, dropped] })
    const runs = await Promise.all([running(kept), running(dropped)])
    first.cut()
    const second = await coordinator.accept({ keep: [refOf(kept)] })
    await new Promise((resolve) => runs[1].context.signal.addEventListener('abort', resolve))
    expect(opened.held()).toEqual([refOf(kept)])
    runs[1].resolve(anOutcome())
    runs[0].resolve(anOutcome())
    expect((await second.next('commit')).items.map(refOf as never)).toEqual([refOf(kept)])
  })

  test('a cancelled execution is aborted, and nothing is heard of it', async () => {
    await using coordinator = await openTestCoordinator()
    const { execute, running } = byHand()
    await using _ = session(coordinator.url, execute)
    const lease = aLease()
    const other = aLease()
    const connection = await coordinator.accept()
    connection.send({ type: 'lease', items: [lease, other] })
    const run = await running(lease)
    connection.send({ type: 'cancel', items: [{ ...refOf(lease), reason: 'the job ended' }] })
    await new Promise((resolve) => run.context.signal.addEventListener('abort', resolve))
    run.reject(run.context.signal.reason)
    ;(await running(other)).resolve(anOutcome())
    await connection.next('commit')
    expect(connection.frames.map(({ type }) => type)).toEqual(['commit'])
  })

  test('the same lease twice runs once; under a newer token it runs anew', async () => {
    await using coordinator = await openTestCoordinator()
    const { execute, running, runs } = byHand()
    await using _ = session(coordinator.url, execute)
    const lease = aLease({ token: 3 })
    const connection = await coordinator.accept()
    connection.send({ type: 'lease', items: [lease, lease, { ...lease, token: 2 }] })
    const old = await running(lease)
    const newer = { ...lease, token: 4 }
    connection.send({ type: 'lease', items: [newer] })
    const run = await running(newer)
    expect(old.context.signal.aborted).toBe(true)
    old.resolve(anOutcome())
    run.resolve(anOutcome())
    expect((await connection.next('commit')).items.map(({ token }) => token)).toEqual([4])
    expect(runs.size).toBe(1)
  })

  test('what could not be run says why; a lease that is not understood is given back', async () => {
    await using coordinator = await openTestCoordinator()
    const { execute, running } = byHand()
    await using _ = session(coordinator.url, execute)
    const lease = aLease()
    const connection = await coordinator.accept()
    connection.send({ type: 'lease', items: [lease] })
    ;(await running(lease)).reject(new BrambleError('image_not_found', { detail: 'there is no image x' }))
    expect((await connection.next('failed')).items).toEqual([
      { ...refOf(lease), code: 'image_not_found', message: 'there is no image x' },
    ])
    const strange = { ...aLease(), spec: { command: ['true'], teleport: true } } as unknown as Lease
    connection.send({ type: 'lease', items: [strange] })
    expect((await connection.next('failed')).items).toMatchObject([{ ...refOf(strange), code: 'unsupported' }])
  })

  test('heartbeats carry what is held, with how far it is; long executions say that they began', async () => {
    await using coordinator = await openTestCoordinator()
    const { execute, running } = byHand()
    await using _ = session(coordinator.url, execute)
    const lease = aLease()
    const connection = await coordinator.accept({ welcome: { heartbeatMs: 20 } })
    connection.send({ type: 'lease', items: [lease] })
    const run = await running(lease)
    run.context.started()
    run.context.progress(0.5)
    expect(await connection.next('started')).toEqual({ type: 'started', items: [refOf(lease)] })
    expect(await connection.next('beat')).toEqual({ type: 'beat', running: [{ ...refOf(lease), progress: 0.5 }] })
  })

  test('live output is sent up to its bound, and none after the end', async () => {
    await using coordinator = await openTestCoordinator()
    const { execute, running } = byHand()
    await using _ = session(coordinator.url, execute)
    const lease = aLease()
    const connection = await coordinator.accept()
    connection.send({ type: 'lease', items: [lease] })
    const run = await running(lease)
    expect(await run.context.output('stdout', Buffer.from('héllo'))).toBe(true)
    expect(await connection.next('output')).toEqual({
      ...{ type: 'output', ...refOf(lease), stream: 'stdout', data: 'héllo' },
    })
    await run.context.output('stderr', Buffer.from([0xff, 0]))
    expect(await connection.next('output')).toMatchObject({ stream: 'stderr', data: '/wA=', encoding: 'base64' })
    await run.context.output('stdout', Buffer.alloc(2 * LIMITS.maxJobLogBytes.value, 'x'))
    run.resolve(anOutcome())
    await connection.next('commit')
    expect(await run.context.output('stdout', Buffer.from('late'))).toBe(false)
    const sent = connection.frames.flatMap((frame) =>
      frame.type === 'output' ? [Buffer.byteLength(frame.data, frame.encoding)] : [],
    )
    expect(sent.reduce((sum, bytes) => sum + bytes, 0)).toBe(LIMITS.maxJobLogBytes.value)
  })

  test('results larger than a frame go in several', async () => {
    await using coordinator = await openTestCoordinator()
    const { execute, running } = byHand()
    await using _ = session(coordinator.url, execute)
    const leases = Array.from({ length: 6 }, () => aLease())
    const connection = await coordinator.accept()
    connection.send({ type: 'lease', items: leases })
    const outcome = anOutcome()
    const stdout = { ...outcome.result.stdout, content: 'x'.repeat(300_000), sizeBytes: 300_000 }
    const runs = await Promise.all(leases.map(running))
    for (const run of runs) run.resolve({ ...outcome, result: { ...outcome.result, stdout } })
    let count = 0
    while (count < leases.length) {
      const frame = await connection.next('commit')
      expect(JSON.stringify(frame).length).toBeLessThanOrEqual(LIMITS.maxFrameBytes.value)
      count += frame.items.length
    }
  })
})

describe('the end of a session', () => {
  test('draining says so, and ends when the last result is acknowledged', async () => {
    await using coordinator = await openTestCoordinator()
    const { execute, running } = byHand()
    const { session: opened } = session(coordinator.url, execute)
    const lease = aLease()
    const connection = await coordinator.accept()
    connection.send({ type: 'lease', items: [lease] })
    const run = await running(lease)
    const closing = opened.close({ graceMs: 60_000 })
    await connection.next('drain')
    run.resolve(anOutcome())
    await connection.next('commit')
    connection.send({ type: 'ack', items: [refOf(lease)] })
    await closing
    await connection.closed
    expect(opened.state).toBe('closed')
    expect(await opened.ended).toBeUndefined()
  })

  test('what runs longer than the grace is aborted and said to have failed', async () => {
    await using coordinator = await openTestCoordinator()
    const { execute, running } = byHand()
    const { session: opened } = session(coordinator.url, execute)
    const lease = aLease()
    const connection = await coordinator.accept()
    connection.send({ type: 'lease', items: [lease] })
    const run = await running(lease)
    const closing = opened.close({ graceMs: 1 })
    const failed = await connection.next('failed')
    expect(failed.items).toMatchObject([{ ...refOf(lease), code: 'shutting_down' }])
    expect(run.context.signal.aborted).toBe(true)
    connection.send({ type: 'ack', items: [refOf(lease)] })
    await closing
  })

  test('closing twice, and before anybody answers, is safe', async () => {
    const { session: opened } = session('http://127.0.0.1:1', byHand().execute)
    await Promise.all([opened.close(), opened.close()])
    await expect(opened.ready).rejects.toMatchObject({ code: 'shutting_down' })
  })

  test('after a `bye` it comes back when it is told, or not at all', async () => {
    await using coordinator = await openTestCoordinator()
    await using joined = session(coordinator.url, byHand().execute, { random: () => 1 })
    const { session: opened, events } = joined
    const first = await coordinator.accept()
    const error = new BrambleError('shutting_down', { detail: 'an upgrade' }).toProblem()
    first.send({ type: 'bye', error, retryAfterMs: 3 })
    const second = await coordinator.accept()
    expect(events).toContainEqual(expect.objectContaining({ type: 'away', retryInMs: 3 }))
    const suspended = new BrambleError('node_suspended', { detail: 'it lied' }).toProblem()
    second.send({ type: 'bye', error: suspended })
    expect(await opened.ended).toMatchObject({ code: 'node_suspended', detail: 'it lied' })
  })
})

describe('whom a session trusts', () => {
  test('a frame that is not the next one ends the connection, and the next one is made', async () => {
    await using coordinator = await openTestCoordinator()
    const { execute, runs } = byHand()
    await using joined = session(coordinator.url, execute)
    const { events } = joined
    const first = await coordinator.accept()
    first.sendRaw(`${'A'.repeat(22)}${JSON.stringify({ type: 'lease', items: [aLease()] })}`)
    await first.closed
    await coordinator.accept()
    expect(runs.size).toBe(0)
    expect(events.find(({ type }) => type === 'away')).toMatchObject({ error: { code: 'signature_invalid' } })
  })

  test('a coordinator of another network is refused for good, before it hears anything', async () => {
    await using coordinator = await openTestCoordinator()
    const refuse = () => {
      throw new BrambleError('signature_invalid', { detail: 'another network' })
    }
    const { session: opened } = session(coordinator.url, byHand().execute, { pin: { check: refuse } })
    expect(await opened.ended).toMatchObject({ detail: 'another network' })
  })

  test('one that does not know the node hears its registration, then its hello', async () => {
    await using coordinator = await openTestCoordinator()
    let registered = 0
    const problem = new BrambleError('not_found', { detail: 'there is no such node' }).toProblem()
    coordinator.refuseWith({ status: 404, body: JSON.stringify(problem) })
    const register = async () => {
      registered++
      if (registered === 2) coordinator.refuseWith(undefined)
    }
    await using joined = session(coordinator.url, byHand().execute, { register })
    const { session: opened, events } = joined
    await coordinator.accept()
    await opened.ready
    expect(registered).toBe(2)
    expect(events[0]).toMatchObject({ type: 'away', error: { code: 'not_found' } })
  })

  test('requests are answered by their handlers', async () => {
    await using coordinator = await openTestCoordinator()
    const requests = { echo: async (params: unknown) => ({ params }) }
    await using _ = session(coordinator.url, byHand().execute, { requests })
    const connection = await coordinator.accept()
    connection.send({ type: 'request', id: 1, method: 'echo', params: { a: 1 } })
    expect(await connection.next('reply')).toEqual({ type: 'reply', id: 1, value: { params: { a: 1 } } })
    connection.send({ type: 'request', id: 2, method: 'toString', params: null })
    expect(await connection.next('reply')).toMatchObject({ id: 2, error: { code: 'unsupported' } })
  })
})
