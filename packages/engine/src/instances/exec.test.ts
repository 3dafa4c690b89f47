import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execResultSchema } from '@bramble/protocol'
import { makeTestImage, type TestImage } from '@bramble/runtime/testing'
import { afterAll, beforeAll, beforeEach, describe, expect, type TestContext, test } from 'vitest'
import type { InstanceLease } from './instances.ts'
import { type InstanceNode, instanceSpec, OWNER, openInstanceNode, removeAll, request, run } from './testing.ts'

let directory = ''
let image: TestImage
let node: InstanceNode
let skip: string | undefined
let lease: InstanceLease

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'bramble-exec-'))
  image = await makeTestImage()
  const opened = await openInstanceNode(directory, image, { limits: { killGraceMs: 300 } })
  if ('skip' in opened) {
    skip = opened.skip
    return
  }
  node = opened
  const { id } = await node.engine.instances.create(
    instanceSpec({ env: { A: '1', B: '1' }, workdir: '/home', resources: { memoryMb: 64, maxOutputBytes: 1000 } }),
    OWNER,
  )
  lease = await node.engine.instances.use(id, OWNER.tenant)
})
beforeEach((context: TestContext) => {
  if (skip !== undefined) context.skip(skip)
})
afterAll(async () => {
  if (skip === undefined) {
    lease[Symbol.dispose]()
    await removeAll(node)
    await node.close()
  }
  await image?.[Symbol.asyncDispose]()
  rmSync(directory, { recursive: true, force: true })
})

const never = new AbortController().signal

describe('a command of an instance', () => {
  test('has the environment of the image, the instance and its own, in this order', async () => {
    const result = await run(lease, { command: 'echo $A $B $HOME $USER $PWD', env: { B: '2' } })
    expect(execResultSchema.parse(result)).toEqual(result)
    expect(result).toMatchObject({
      instanceId: lease.id,
      status: 'succeeded',
      exitCode: 0,
      stdout: '1 2 /root root /home\n',
      encoding: 'utf8',
      truncated: false,
    })
    const other = await run(lease, { command: 'echo $A $HOME $USER $PWD; id -u', user: 'app', workdir: 'app' })
    expect(other.stdout).toBe('1 /home/app app /home/app\n1000\n')
  })

  test('gets standard input, text or bytes, and none where there is none', async () => {
    expect(await run(lease, { command: ['cat'], stdin: 'text' })).toMatchObject({ stdout: 'text' })
    expect(await run(lease, { command: ['cat'], stdin: { base64: '/wA=' } })).toMatchObject({
      stdout: '/wA=',
      encoding: 'base64',
    })
    expect(await run(lease, ['cat'])).toMatchObject({ stdout: '', exitCode: 0 })
    expect(await run(lease, { command: ['true'], stdin: 'x'.repeat(1_000_000) })).toMatchObject({ exitCode: 0 })
  })

  test('ends as commands of executions do', async () => {
    expect(await run(lease, 'exit 3')).toMatchObject({ status: 'failed', exitCode: 3 })
    expect(await run(lease, ['no-such-command'])).toMatchObject({ status: 'failed', exitCode: 127 })
    expect(await run(lease, ['/etc/passwd'])).toMatchObject({ status: 'failed', exitCode: 126 })
    expect(await run(lease, { command: 'true', workdir: '/missing' })).toMatchObject({ exitCode: 126 })
    expect(await run(lease, 'kill -9 $$')).toMatchObject({ status: 'failed', exitCode: 137, signal: 'SIGKILL' })
  })

  test('that takes too much memory is oom, and the instance goes on', async () => {
    const command = 'head -c 200m /dev/zero | tail -n 1 > /dev/null; exit 137'
    expect(await run(lease, command)).toMatchObject({ status: 'oom' })
    expect(await run(lease, 'kill -9 $$')).toMatchObject({ status: 'failed', signal: 'SIGKILL' })
  })

  test('past its time, or cancelled, is killed; what it wrote is kept', async () => {
    const command = "trap '' TERM; echo begun; sleep 1000"
    expect(await run(lease, { command, timeoutMs: 50 })).toMatchObject({
      status: 'timeout',
      exitCode: null,
      stdout: 'begun\n',
    })
    const controller = new AbortController()
    const streamed = lease.exec(request(command), { signal: controller.signal, stream: true })
    for await (const event of streamed) if (event.type === 'stdout') controller.abort()
    expect(await streamed.result).toMatchObject({ status: 'cancelled', stdout: 'begun\n' })
    expect((await run(lease, 'ps')).stdout).not.toContain('sleep 1000')
  })

  test('keeps the first bytes of its output, and goes on', async () => {
    const result = await run(lease, 'head -c 5000000 /dev/zero; echo done > /root/done')
    expect([result.stdout.length, result.truncated, result.exitCode]).toEqual([1000, true, 0])
    expect(await run(lease, { command: 'cat /root/done', maxOutputBytes: 2 })).toMatchObject({
      stdout: 'do',
      truncated: true,
    })
  })

  test('is streamed whole, at the pace of its reader; who leaves ends it', async () => {
    const streamed = lease.exec(request('echo a; echo b >&2; head -c 3000000 /dev/zero'), {
      signal: never,
      stream: true,
    })
    const bytes = { stdout: 0, stderr: 0 }
    for await (const event of streamed) if (event.type !== 'started') bytes[event.type] += event.data.length
    expect(bytes).toEqual({ stdout: 3_000_002, stderr: 2 })
    expect(await streamed.result).toMatchObject({ status: 'succeeded', truncated: true })
    const left = lease.exec(request('echo $$; exec cat /dev/zero'), { signal: never, stream: true })
    for await (const event of left) if (event.type === 'stdout') break
    expect(await left.result).toMatchObject({ status: 'cancelled' })
    expect((await run(lease, 'ps')).stdout).not.toContain('cat /dev/zero')
  })

  test('that no agent takes is a wrong request', () => {
    const env = Object.fromEntries(Array.from({ length: 8 }, (_, i) => [`V${i}`, 'x'.repeat(130_000)]))
    expect(() => lease.exec(request({ command: 'true', env }), { signal: never, stream: false })).toThrow(
      /invalid|not valid/i,
    )
  })

  test('reaches what listens in the sandbox by the lease, as do ports and observers', async () => {
    await expect(lease.connect({ port: 7777 })).rejects.toMatchObject({ code: 'port_closed' })
    await expect(lease.connect({ port: 7777, host: 'example.org' })).rejects.toMatchObject({ code: 'port_closed' })
    const controller = new AbortController()
    const changes = [lease.observe({ signal: controller.signal }), lease.observe({ signal: controller.signal })]
    const opened = changes.map(async (observed) => {
      for await (const change of observed) if (change.type === 'port' && change.port === 7777) return change
      return undefined
    })
    lease.stream.start({
      type: 'exec',
      id: 'server',
      command: 'while :; do echo hello | nc -l -p 7777; done',
      env: {},
      stdin: false,
    })
    expect(await Promise.all(opened)).toMatchObject([{ event: 'open' }, { event: 'open' }])
    const socket = await lease.connect({ port: 7777, host: 'localhost' })
    expect(String((await socket[Symbol.asyncIterator]().next()).value)).toBe('hello\n')
    socket.destroy()
    controller.abort()
    lease.stream.commands.get('server')?.kill(9)
  })

  test('reads and writes files as its user', async () => {
    await lease.files.write('/root/f', Buffer.from('text'))
    const { body } = await lease.files.read('/root/f')
    expect(Buffer.concat(await Array.fromAsync(body)).toString()).toBe('text')
  })
})
