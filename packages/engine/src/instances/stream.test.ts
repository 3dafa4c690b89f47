import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { makeTestImage, type TestImage } from '@bramble/runtime/testing'
import { afterAll, beforeAll, beforeEach, describe, expect, type TestContext, test } from 'vitest'
import type { InstanceLease, StreamEntry, StreamReadOptions } from './instances.ts'
import { type InstanceNode, instanceSpec, OWNER, openInstanceNode, removeAll, run } from './testing.ts'

let directory = ''
let image: TestImage
let node: InstanceNode
let skip: string | undefined
let lease: InstanceLease

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'bramble-stream-'))
  image = await makeTestImage()
  const opened = await openInstanceNode(directory, image, { limits: { streamStallMs: 200 } })
  if ('skip' in opened) skip = opened.skip
  else node = opened
})
beforeEach(async (context: TestContext) => {
  if (skip !== undefined) context.skip(skip)
  const { id } = await node.engine.instances.create(instanceSpec(), OWNER)
  lease = await node.engine.instances.use(id, OWNER.tenant)
  return async () => {
    lease[Symbol.dispose]()
    await removeAll(node)
  }
})
afterAll(async () => {
  if (skip === undefined) await node.close()
  await image?.[Symbol.asyncDispose]()
  rmSync(directory, { recursive: true, force: true })
})

const SEND_DATAGRAM = `
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
int main(int argc, char **argv) {
  struct sockaddr_un to = {AF_UNIX, "/.bramble/run/events.sock"};
  int s = socket(AF_UNIX, SOCK_DGRAM, 0);
  return argc < 2 || sendto(s, argv[1], strlen(argv[1]), 0, (void *)&to, sizeof to) < 0;
}
`

/** A static program of that source, as the agent itself is made. */
const compile = async (source: string): Promise<Buffer> => {
  const path = join(directory, 'program')
  writeFileSync(`${path}.c`, source)
  await promisify(execFile)('cc', ['-static', '-Os', '-o', path, `${path}.c`])
  return readFileSync(path)
}

const start = (command: string, id?: string) =>
  lease.stream.start({ type: 'exec', command, env: {}, stdin: true, ...(id !== undefined && { id }) })

const read = (options: Partial<StreamReadOptions> = {}) =>
  lease.stream.read({ signal: AbortSignal.timeout(20_000), ...options })[Symbol.asyncIterator]()

/** Takes entries up to the exit of the command, that one included. */
const untilExit = async (reader: AsyncIterator<StreamEntry>, id: string): Promise<StreamEntry[]> => {
  const entries: StreamEntry[] = []
  for (let next = await reader.next(); !next.done; next = await reader.next()) {
    entries.push(next.value)
    if ('event' in next.value && next.value.event.type === 'exit' && next.value.id === id) return entries
  }
  return entries
}

const outputBytes = (entries: readonly StreamEntry[]): number =>
  entries.reduce((sum, entry) => sum + ('event' in entry && 'data' in entry.event ? entry.event.data.length : 0), 0)

describe('the stream of an instance', () => {
  test('shows every reader every entry, numbered one by one', async () => {
    const readers = [read(), read(), read({ only: 'b' })]
    const seen = readers.map((reader) => untilExit(reader, 'b'))
    start('echo a', 'a')
    start('echo b; sleep 0.1; exit 4', 'b')
    expect([...lease.stream.commands.keys()]).toEqual(['a', 'b'])
    const [first = [], second, third = []] = await Promise.all(seen)
    expect(second).toEqual(first)
    expect(first.map(({ seq }) => seq)).toEqual(first.map((_, i) => i + 1))
    expect(third).toMatchObject([
      { id: 'b', event: { type: 'started' } },
      { id: 'b', event: { type: 'stdout' } },
      { id: 'b', event: { type: 'exit', code: 4 } },
    ])
    expect([...lease.stream.commands.keys()]).toEqual([])
    expect(lease.stream.seq).toBe(first.length)
    const again = read({ since: 2 })
    expect((await untilExit(again, 'b')).map(({ seq }) => seq)).toEqual(first.slice(2).map(({ seq }) => seq))
  })

  test('begins with what is new where a reader does not say', async () => {
    start('echo old', 'old')
    await untilExit(read({ since: 0 }), 'old')
    const reader = read()
    start('echo new', 'new')
    const entries = await untilExit(reader, 'new')
    expect(entries.every((entry) => 'id' in entry && entry.id === 'new')).toBe(true)
  })

  test('takes input, signals and a second command of the same name after the first', async () => {
    const reader = read()
    const cat = start('cat', 'cat')
    expect(() => start('cat', 'cat')).toThrow(expect.objectContaining({ code: 'conflict' }))
    await cat.write(Buffer.from('typed\n'))
    cat.end()
    expect(await untilExit(reader, 'cat')).toMatchObject([
      { event: { type: 'started' } },
      { event: { type: 'stdout', data: Buffer.from('typed\n') } },
      { event: { type: 'exit', code: 0 } },
    ])
    start('sleep 1000', 'cat').kill(15)
    expect((await untilExit(reader, 'cat')).at(-1)).toMatchObject({ event: { kind: 'signalled', signal: 15 } })
  })

  test('forgets the oldest, and says so to who asks for them', async () => {
    const reader = read()
    start('head -c 1000000 /dev/zero', 'much')
    const entries = await untilExit(reader, 'much')
    expect(outputBytes(entries)).toBe(1_000_000)
    await expect(read({ since: 0 }).next()).rejects.toMatchObject({ code: 'window_passed' })
    await expect(read({ since: 1 }).next()).rejects.toMatchObject({ code: 'window_passed' })
    const { firstSeq, seq } = lease.stream
    const kept = await untilExit(read({ since: firstSeq - 1 }), 'much')
    expect([kept[0]?.seq, kept.at(-1)?.seq]).toEqual([firstSeq, seq])
    expect(outputBytes(kept)).toBeGreaterThan(100_000)
    expect(outputBytes(kept)).toBeLessThanOrEqual(192 * 1024)
  })

  test('waits for a slow reader, and cuts off one that takes nothing', async () => {
    const cut = Promise.withResolvers<Error>()
    const stuck = read({ onCutOff: cut.resolve })
    const held = stuck.next()
    const quick = read()
    const all = untilExit(quick, 'much')
    start('head -c 3000000 /dev/zero', 'much')
    expect(await held).toMatchObject({ value: { event: { type: 'started' } } })
    // The command stands still until the stuck reader is gone.
    expect(await cut.promise).toMatchObject({ code: 'slow_consumer' })
    await expect(stuck.next()).rejects.toMatchObject({ code: 'slow_consumer' })
    expect(outputBytes(await all)).toBe(3_000_000)
  })

  test('does not wait for a reader that is gone', async () => {
    const leaving = read()
    const quick = read()
    const firsts = [leaving.next(), quick.next()]
    start('head -c 3000000 /dev/zero', 'much')
    await Promise.all(firsts)
    await leaving.return?.()
    expect((await untilExit(quick, 'much')).at(-1)).toMatchObject({ event: { type: 'exit' } })
  })

  test('ends for a reader that stops, with its reason', async () => {
    const controller = new AbortController()
    const reader = read({ signal: controller.signal })
    const next = reader.next()
    controller.abort(new Error('enough'))
    await expect(next).rejects.toThrow('enough')
  })

  test('has what programs emit, and drops what is no event', async () => {
    const reader = read()
    await run(lease, ['/.bramble/bramble-emit', 'progress', '{"done":3}'])
    await lease.files.write('/root/send', await compile(SEND_DATAGRAM), { mode: 0o755 })
    const noise = ['noise', '{}', '{"name":""}', '{"name":1,"data":2}', `{"name":"${'n'.repeat(300)}"}`, 'null', '[]']
    for (const datagram of [...noise, '{"name":"last"}'])
      expect(await run(lease, ['/root/send', datagram])).toMatchObject({ exitCode: 0 })
    expect(await reader.next()).toMatchObject({ value: { seq: 1, name: 'progress', data: { done: 3 } } })
    expect(await reader.next()).toMatchObject({ value: { seq: 2 + noise.length, name: 'last', data: null } })
  })

  test('goes on when the instance is stopped and started: numbers rise, and nothing is given out twice', async () => {
    start('echo a', 'a')
    const reader = read({ since: 0 })
    const before = await untilExit(reader, 'a')
    const last = before.at(-1)?.seq ?? 0
    const states: string[] = []
    const { instances } = node.engine
    lease.stream.events.on('state', () => states.push('state'))
    await instances.stop(lease.id, OWNER.tenant)
    expect(await reader.next()).toEqual({ done: true, value: undefined })
    expect(await lease.ended).toEqual({ status: 'stopped' })
    await instances.start(lease.id, OWNER.tenant)
    expect(states.length).toBeGreaterThanOrEqual(4)
    using again = await instances.use(lease.id, OWNER.tenant)
    again.stream.start({ type: 'exec', id: 'b', command: 'echo b', env: {}, stdin: false })
    const after = await untilExit(read({ since: last }), 'b')
    expect(after.map((entry) => 'id' in entry && entry.id)).toEqual(['b', 'b', 'b'])
    expect(after[0]?.seq).toBeGreaterThan(last)
  })
})
