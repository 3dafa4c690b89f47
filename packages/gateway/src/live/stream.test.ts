import { afterAll, beforeAll, beforeEach, describe, expect, type TestContext, test } from 'vitest'
import { killParentOf } from '../../test/kill-parent-of.ts'
import { connectLive, connectObserving, connectStream } from '../../test/live-client.ts'
import { openRealNode, type RealNode } from '../../test/real-node.ts'

let opened: RealNode | { skip: string }
let node: RealNode
beforeAll(async () => {
  opened = await openRealNode()
  if ('skip' in opened) return
  node = opened
  await node.start({ name: 'box' })
})
afterAll(async () => {
  if (!('skip' in opened)) await opened[Symbol.asyncDispose]()
})
beforeEach((context: TestContext) => {
  if ('skip' in opened) context.skip(opened.skip)
})

describe('the stream of an instance', () => {
  test('begins with its state, and answers get_state with it', async () => {
    using stream = await connectStream(node, 'box')
    expect(await stream.event('state')).toMatchObject({ status: 'running', commands: [], watches: [] })
    stream.send({ type: 'get_state' })
    await stream.until(() => stream.events.filter(({ type }) => type === 'state').length === 2)
  })

  test('runs several commands at once, told apart by id, with input, output and their ends', async () => {
    using stream = await connectStream(node, 'box')
    stream.send({ type: 'exec', id: 'cat', command: 'cat; echo err >&2; exit 3' })
    stream.send({ type: 'exec', id: 'echo', command: ['echo', 'aside'], env: { A: 'b' }, workdir: '/tmp' })
    expect(await stream.event('exit', ({ id }) => id === 'echo')).toMatchObject({ code: 0 })
    stream.send({ type: 'stdin', id: 'cat', data: 'text é\n' })
    stream.send({ type: 'stdin', id: 'cat', data: '/wD+', encoding: 'base64' })
    stream.send({ type: 'close_stdin', id: 'cat' })
    expect(await stream.event('exit', ({ id }) => id === 'cat')).toMatchObject({ code: 3 })
    expect(stream.output('cat')).toEqual(Buffer.concat([Buffer.from('text é\n'), Buffer.from([0xff, 0, 0xfe])]))
    expect(stream.output('cat', 'stderr').toString()).toBe('err\n')
    expect(stream.output('echo').toString()).toBe('aside\n')
    const seqs = stream.events.flatMap((event) => ('seq' in event && event.type !== 'state' ? [event.seq] : []))
    expect(seqs).toEqual([...seqs].sort((left, right) => left - right))
  })

  test('what has no id goes to the command that was started last', async () => {
    using stream = await connectStream(node, 'box')
    stream.send({ type: 'exec', command: 'read line; echo "got $line"' })
    stream.send({ type: 'stdin', data: 'it\n' })
    const { id } = await stream.event('exit')
    expect(id).toMatch(/^cmd_/)
    expect(stream.output(id).toString()).toBe('got it\n')
  })

  test('signals a command, by name and by number', async () => {
    using stream = await connectStream(node, 'box')
    for (const [id, signal] of [
      ['name', 'TERM'],
      ['sig', 'SIGTERM'],
      ['number', 15],
    ] as const) {
      stream.send({ type: 'exec', id, command: ['sleep', '60'] })
      await stream.event('started', (event) => event.id === id)
      stream.send({ type: 'signal', id, signal })
      expect(await stream.event('exit', (event) => event.id === id)).toMatchObject({ code: 143, signal: 'SIGTERM' })
    }
  })

  test('a command that cannot start ends with the code of the shell', async () => {
    using stream = await connectStream(node, 'box')
    stream.send({ type: 'exec', id: 'none', command: ['/nowhere/to/be/found'] })
    expect(await stream.event('exit')).toMatchObject({ id: 'none', code: 127, message: expect.any(String) })
  })

  test('a terminal has its size and takes a new one', async () => {
    using stream = await connectStream(node, 'box')
    stream.send({ type: 'exec', id: 'tty', command: 'stty size; read _; stty size', pty: { cols: 91, rows: 17 } })
    await stream.until(() => stream.output('tty').includes('17 91'))
    stream.send({ type: 'resize', id: 'tty', cols: 120, rows: 40 })
    stream.send({ type: 'stdin', id: 'tty', data: '\n' })
    await stream.event('exit')
    expect(stream.output('tty').toString()).toContain('40 120')
  })

  test('never splits a character, and brings bytes that are none', async () => {
    using stream = await connectStream(node, 'box')
    // Half a character, a pause in which it is read, and its rest.
    stream.send({ type: 'exec', id: 'half', command: "printf 'a\\303'; read _; printf '\\251b'" })
    await stream.until(() => stream.output('half').length > 0)
    stream.send({ type: 'stdin', id: 'half', data: '\n' })
    await stream.event('exit')
    const chunks = stream.events.flatMap((event) => (event.type === 'stdout' ? [event] : []))
    expect(chunks.map(({ data, encoding }) => [data, encoding])).toEqual([
      ['a', undefined],
      ['éb', undefined],
    ])
    stream.send({ type: 'exec', id: 'cut', command: "printf 'x\\303'" })
    await stream.event('exit', ({ id }) => id === 'cut')
    expect(stream.output('cut')).toEqual(Buffer.from([0x78, 0xc3]))
  })

  test('every connection sees every command, and one that comes back misses nothing', async () => {
    using first = await connectStream(node, 'box')
    using second = await connectStream(node, 'box')
    await second.event('state')
    first.send({ type: 'exec', id: 'seen', command: 'echo one; read _; printf "t\\303"; read _; printf "\\251\\n"' })
    await second.until(() => second.output('seen').includes('one'))
    const { seq } = await first.event('stdout')
    second.ws.terminate()
    first.send({ type: 'stdin', id: 'seen', data: '\n' })
    await first.until(() => first.output('seen').includes('t'))
    const half = first.events.findLast((event) => event.type === 'stdout')
    first.send({ type: 'stdin', id: 'seen', data: '\n' })
    await first.event('exit', ({ id }) => id === 'seen')

    using back = await connectStream(node, 'box', { query: `since=${seq}&processes=false` })
    await back.event('exit', ({ id }) => id === 'seen')
    expect(back.output('seen').toString()).toBe('té\n')
    // It left between the two halves of a character: that is whole all the same.
    using between = await connectStream(node, 'box', { query: `since=${half && 'seq' in half && half.seq}` })
    await between.event('exit', ({ id }) => id === 'seen')
    expect(between.events.flatMap((event) => (event.type === 'stdout' ? [event.data] : []))).toEqual(['é\n'])
  })

  test('what is not kept any more is said', async () => {
    using stream = await connectStream(node, 'box')
    stream.send({ type: 'exec', id: 'much', command: 'head -c 600000 /dev/zero | tr "\\0" x' })
    await stream.event('exit', ({ id }) => id === 'much')
    expect(stream.output('much').length).toBe(600_000)
    using late = await connectStream(node, 'box', { query: 'since=0' })
    expect(await late.event('error')).toMatchObject({ code: 'window_passed' })
    expect(late.events[0]).toMatchObject({ type: 'state' })
    expect((await late.closed).code).toBe(4410)
  })

  test('programs inside emit events, processes and ports are told', async () => {
    using stream = await connectObserving(node, 'box')
    stream.send({ type: 'exec', id: 'server', command: 'nc -l -p 4321' })
    expect(await stream.event('port_event', ({ port }) => port === 4321)).toMatchObject({ event: 'open' })
    const started = await stream.event('process_event', ({ command }) => command.includes('nc -l -p 4321'))
    expect(started).toMatchObject({ event: 'start', pid: expect.any(Number) })
    stream.send({ type: 'signal', id: 'server', signal: 'KILL' })
    await stream.event('port_event', ({ port, event }) => port === 4321 && event === 'close')
    await stream.event('process_event', ({ pid, event }) => pid === started.pid && event === 'exit')
  })

  test('watches files, says which watches stand, and ends them', async () => {
    await node.sh('box', 'mkdir -p /w/deep')
    using stream = await connectStream(node, 'box')
    stream.send({ type: 'watch', path: '/w' })
    await stream.event('state', ({ watches }) => watches.includes('/w'))
    await node.sh('box', 'echo x > /w/deep/a; mv /w/deep/a /w/b; rm /w/b; mkdir /w/d')
    await stream.event('file_event', ({ path, event }) => path === '/w/deep/a' && event === 'create')
    await stream.event('file_event', ({ event, to }) => event === 'move' && to === '/w/b')
    await stream.event('file_event', ({ path, event }) => path === '/w/b' && event === 'delete')
    await stream.event('file_event', ({ path, isDirectory }) => path === '/w/d' && isDirectory === true)
    await node.sh('box', "touch /w/$(printf '\\377')")
    expect(await stream.event('file_event', ({ encoding }) => encoding === 'base64')).toMatchObject({
      path: Buffer.from('/w/\xff', 'latin1').toString('base64'),
    })
    stream.send({ type: 'unwatch', path: '/w' })
    await stream.until(() => stream.events.findLast(({ type }) => type === 'state')?.type === 'state')
    stream.send({ type: 'unwatch', path: '/w' })
    expect(await stream.event('error')).toMatchObject({ code: 'not_found' })
    stream.send({ type: 'watch', path: '/nowhere' })
    expect(await stream.event('error', ({ code }) => code === 'file_not_found')).toBeDefined()
  })

  test('a paused instance resumes for who acts, and its state is told', async () => {
    const { id } = await node.start({ name: 'sleepy' })
    using stream = await connectStream(node, id)
    await stream.event('state')
    await node.fetch(`/api/v1/instances/${id}/pause`, { method: 'POST' })
    await stream.event('state', ({ status }) => status === 'paused')
    stream.send({ type: 'exec', id: 'wake', command: 'echo awake' })
    await stream.event('exit')
    expect(stream.output('wake').toString()).toBe('awake\n')
    await node.fetch(`/api/v1/instances/${id}`, { method: 'DELETE' })
    expect(await stream.event('state', ({ status }) => status === 'deleted')).toBeDefined()
    expect(await stream.closed).toMatchObject({ code: 4404 })
    await expect(connectStream(node, id)).rejects.toMatchObject({ status: 404, problem: { code: 'not_found' } })
  })

  test('`stop` ends it with its last state; stopped, it takes no stream', async () => {
    const { id } = await node.start({})
    using stream = await connectObserving(node, id)
    stream.send({ type: 'watch', path: '/tmp' })
    await stream.event('state', ({ watches }) => watches.length > 0)
    stream.send({
      type: 'exec',
      id: 'last',
      command: 'trap "echo bye; exit 0" TERM; echo up; while :; do sleep 0.1; done',
    })
    await stream.until(() => stream.output('last').includes('up'))
    stream.send({ type: 'stop' })
    expect(await stream.closed).toMatchObject({ code: 1000 })
    expect(stream.output('last').toString()).toBe('up\nbye\n')
    // The programs that looked for it ended with everything else: that is no error.
    expect(stream.events.filter(({ type }) => type === 'error')).toEqual([])
    expect(stream.events.at(-1)).toMatchObject({ type: 'state', status: 'stopped' })
    await expect(connectStream(node, id)).rejects.toMatchObject({ status: 409, problem: { code: 'instance_stopped' } })
  })

  test('an agent that is killed is reported, to streams, terminals and commands, and nothing hangs', async () => {
    const { id } = await node.start({})
    using stream = await connectStream(node, id)
    using pty = await connectLive(node, `/api/v1/instances/${id}/pty`)
    const running = node.fetch(`/api/v1/instances/${id}/exec`, { json: { command: ['sleep', '86399'] } })
    stream.send({ type: 'exec', id: 'marker', command: ['sleep', '86398'] })
    await stream.event('started')
    await killParentOf('sleep\x0086398\0')
    expect(await stream.event('error')).toMatchObject({ code: 'sandbox_died' })
    expect(await stream.event('state', ({ status }) => status === 'stopped')).toMatchObject({
      reason: expect.any(String),
    })
    expect(await stream.closed).toMatchObject({ code: 1000 })
    expect(await pty.closed).toMatchObject({ code: 4500, reason: 'sandbox_died' })
    const answer = (await (await running).json()) as { status: unknown; code?: string }
    expect([answer.status, answer.code]).toSatisfy(([status, code]) => status === 'error' || code === 'sandbox_died')
    const shown = await node.fetch(`/api/v1/instances/${id}`)
    expect(await shown.json()).toMatchObject({ status: 'stopped', reason: expect.any(String) })
  })
})
