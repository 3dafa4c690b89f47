import { executionResultSchema } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import { CONTEXT, gather, memoryImages, namedImage, openTestEngine, spec } from './testing.ts'

describe('an execution', () => {
  test('gives a whole result', async () => {
    await using node = await openTestEngine()
    const execution = node.engine.execute(spec('echo out; echo err >&2; exit 3'), CONTEXT)
    const result = await execution.result
    expect(executionResultSchema.parse(result)).toEqual(result)
    expect(result).toMatchObject({
      id: execution.id,
      mode: 'ephemeral',
      runtime: 'fake',
      status: 'failed',
      exitCode: 3,
      stdout: 'out\n',
      stderr: 'err\n',
      encoding: 'utf8',
      truncated: false,
    })
  })

  test('has equal hashes when it is run again, and others when its input or output is another', async () => {
    await using node = await openTestEngine()
    const run = (command: string) => node.engine.execute(spec(command), CONTEXT).result
    const [a, b, c] = [await run('echo 1'), await run('echo 1'), await run('echo 2')]
    expect([b.inputHash, b.resultHash]).toEqual([a.inputHash, a.resultHash])
    expect(c.inputHash).not.toBe(a.inputHash)
    expect(c.resultHash).not.toBe(a.resultHash)
  })

  test('gets env, user, directory, files and standard input, and returns its outputs', async () => {
    await using node = await openTestEngine({ images: memoryImages(namedImage('base', { env: { A: '1', B: '1' } })) })
    const { result } = node.engine.execute(
      spec({
        command: 'pwd; whoami; echo $A $B $HOME; cat; cat in/a.txt; sha256sum < /tmp/b > sum; echo done > /tmp/out',
        env: { B: '2' },
        user: 'app',
        workdir: '/home/app',
        stdin: 'piped\n',
        files: { 'in/a.txt': 'text\n', '/tmp/b': { base64: 'AAH/', mode: 0o600 } },
        outputs: ['/tmp/out', 'missing', '/tmp', '/tmp/b'],
      }),
      CONTEXT,
    )
    const { stdout, outputs, status } = await result
    expect(stdout).toBe('/home/app\napp\n1 2 /home/app\npiped\ntext\n')
    expect(status).toBe('succeeded')
    expect(outputs).toMatchObject({
      '/tmp/out': { content: 'done\n', encoding: 'utf8', sizeBytes: 5 },
      missing: { error: 'not_found' },
      '/tmp': { error: 'not_a_file' },
      '/tmp/b': { content: 'AAH/', encoding: 'base64' },
    })
  })

  test('that is not found is 127, not executable 126, in a missing directory or as an unknown user 126 with words', async () => {
    await using node = await openTestEngine()
    const run = (input: Parameters<typeof spec>[0]) => node.engine.execute(spec(input), CONTEXT).result
    expect(await run(['no-such-command'])).toMatchObject({ status: 'failed', exitCode: 127 })
    expect(await run(['/etc/not-executable'])).toMatchObject({ status: 'failed', exitCode: 126 })
    expect(await run({ command: 'true', workdir: '/missing' })).toMatchObject({
      status: 'failed',
      exitCode: 126,
      message: expect.stringContaining('working directory'),
    })
    expect(await run({ command: 'true', user: 'nobody-here' })).toMatchObject({
      status: 'failed',
      exitCode: 126,
      message: expect.stringContaining('user'),
    })
  })

  test('whose files cannot be written is a wrong request', async () => {
    await using node = await openTestEngine()
    const { result } = node.engine.execute(spec({ command: 'true', user: 'app', files: { '/etc/x': 'a' } }), CONTEXT)
    await expect(result).rejects.toMatchObject({ code: 'invalid_request' })
  })

  test('keeps the first bytes of each stream and says that there were more', async () => {
    await using node = await openTestEngine()
    const command = 'head -c 1000 /dev/zero; head -c 10 /dev/zero >&2'
    const { result } = node.engine.execute(spec({ command, resources: { maxOutputBytes: 100 } }), CONTEXT)
    const { stdout, stderr, truncated, exitCode } = await result
    expect([stdout.length, stderr.length, truncated, exitCode]).toEqual([100, 10, true, 0])
  })

  test('that writes bytes which are no text is base64', async () => {
    await using node = await openTestEngine()
    const result = await node.engine.execute(spec("printf '\\377\\0'"), CONTEXT).result
    expect(result).toMatchObject({ encoding: 'base64', stdout: '/wA=' })
  })

  test('past its time is killed, and what it wrote is kept', async () => {
    await using node = await openTestEngine()
    const command = "trap '' TERM; echo begun; sleep 1000"
    const { result } = node.engine.execute(spec({ command, resources: { timeoutMs: 50 } }), CONTEXT)
    expect(await result).toMatchObject({ status: 'timeout', exitCode: null, stdout: 'begun\n' })
  })

  test('that is killed for want of memory is oom; a crash is not', async () => {
    await using node = await openTestEngine()
    const run = (command: string[]) => node.engine.execute(spec(command), CONTEXT).result
    expect(await run(['fake-oom'])).toMatchObject({ status: 'oom', signal: 'SIGKILL' })
    expect(await run(['sh', '-c', 'kill -9 $$'])).toMatchObject({ status: 'failed', exitCode: 137, signal: 'SIGKILL' })
  })

  test('whose sandbox dies is an error, with what is known', async () => {
    await using node = await openTestEngine()
    const result = await node.engine.execute(spec('echo first; fake-die'), CONTEXT).result
    expect(result).toMatchObject({ status: 'error', exitCode: null, stdout: 'first\n' })
    expect(result.message).toContain('fake-die was run')
  })

  test('whose sandbox dies before it began rejects, retryable', async () => {
    await using node = await openTestEngine({ runtime: { dies: () => true } })
    const { result } = node.engine.execute(spec('true'), CONTEXT)
    await expect(result).rejects.toMatchObject({ code: 'sandbox_died', retryable: true })
  })

  test('has a sandbox of its own, which is gone afterwards', async () => {
    await using node = await openTestEngine({ limits: { minReady: 1 } })
    const run = (command: string) => node.engine.execute(spec(command), CONTEXT).result
    expect((await run('echo x > /tmp/left; ls /tmp')).stdout).toBe('left\n')
    expect((await run('ls /tmp')).stdout).toBe('')
    await node.engine.close({ graceMs: 0 })
    expect(node.host.sandboxes.size).toBe(0)
  })

  test.each([
    [{ command: 'true', network: 'egress' }, 'unsupported', 'network'],
    [{ command: 'true', isolation: 'vm' }, 'unsupported', 'vm'],
    [{ command: 'true', runtime: 'docker' }, 'unsupported', 'docker'],
    [{ command: 'true', secrets: ['a'] }, 'unsupported', 'secrets'],
    [{ command: 'true', resources: { gpus: 1 } }, 'unsupported', 'gpus'],
    [{ command: 'true', image: 'none' }, 'image_not_found', 'none'],
    [{ command: 'echo \ud800' }, 'invalid_request', 'surrogates'],
  ] as const)('that asks for %j is refused at once as %s', async (input, code, words) => {
    await using node = await openTestEngine()
    const execute = () => node.engine.execute(spec(input as Parameters<typeof spec>[0]), CONTEXT)
    expect(execute).toThrow(expect.objectContaining({ code, detail: expect.stringContaining(words) }))
    expect(node.notices).toContainEqual({ type: 'refused', code })
  })
})

describe('streaming', () => {
  test('says everything, in order, past the limit of what is kept', async () => {
    await using node = await openTestEngine()
    const command = 'head -c 300000 /dev/zero; echo e >&2; exit 2'
    const execution = node.engine.execute(spec({ command, resources: { maxOutputBytes: 10 } }), {
      ...CONTEXT,
      stream: true,
    })
    const { stdout, stderr, types, others } = await gather(execution)
    expect(types).toEqual(['queued', 'started', 'exit', 'result'])
    expect([stdout.length, stderr]).toEqual([300_000, 'e\n'])
    expect(others[2]).toEqual({ type: 'exit', code: 2 })
    expect(await execution.result).toMatchObject({ truncated: true, exitCode: 2 })
  })

  test('a reader that does not read holds the command, until its time is up', async () => {
    await using node = await openTestEngine()
    const command = 'while true; do head -c 65536 /dev/zero; done'
    const execution = node.engine.execute(spec({ command, resources: { timeoutMs: 100 } }), {
      ...CONTEXT,
      stream: true,
    })
    expect(await execution.result).toMatchObject({ status: 'timeout' })
    const { stdout, types } = await gather(execution)
    expect(stdout.length).toBeLessThan(16 * 1024 * 1024)
    expect(types).toEqual(['queued', 'started', 'exit', 'result'])
  })

  test('a reader that leaves cancels the execution', async () => {
    await using node = await openTestEngine()
    const execution = node.engine.execute(spec('echo a; sleep 1000'), { ...CONTEXT, stream: true })
    for await (const event of execution) if (event.type === 'stdout') break
    expect(await execution.result).toMatchObject({ status: 'cancelled', stdout: 'a\n' })
  })

  test('without a sandbox, the last event is the error', async () => {
    await using node = await openTestEngine({ runtime: { createFails: () => new Error('no') } })
    const execution = node.engine.execute(spec('true'), { ...CONTEXT, stream: true })
    const { types } = await gather(execution)
    expect(types).toEqual(['queued', 'error'])
    await expect(execution.result).rejects.toMatchObject({ code: 'internal' })
  })
})

describe('cancelling', () => {
  test('by the signal: a command that runs is killed, one that waits never runs', async () => {
    await using node = await openTestEngine({ limits: { maxRunning: 1 } })
    const controller = new AbortController()
    const context = { ...CONTEXT, signal: controller.signal }
    const running = node.engine.execute(spec('echo a; sleep 1000'), { ...context, stream: true })
    const waiting = node.engine.execute(spec('echo b'), context)
    for await (const event of running) if (event.type === 'stdout') controller.abort()
    expect(await running.result).toMatchObject({ status: 'cancelled', exitCode: null, stdout: 'a\n' })
    expect(await waiting.result).toMatchObject({ status: 'cancelled', exitCode: null, stdout: '' })
    expect(node.engine.status()).toMatchObject({ running: 0, queued: 0 })
  })

  test('before it began, by a signal that was aborted already', async () => {
    await using node = await openTestEngine()
    const { result } = node.engine.execute(spec('true'), { ...CONTEXT, signal: AbortSignal.abort() })
    expect(await result).toMatchObject({ status: 'cancelled' })
  })

  test('by its id: the record says so; once ended it stays as it is; another tenant finds nothing', async () => {
    await using node = await openTestEngine()
    const { executions } = node.engine
    const execution = node.engine.execute(spec('echo a; sleep 1000'), CONTEXT)
    await expect(executions.cancel(execution.id, 'other')).rejects.toMatchObject({ code: 'not_found' })
    await node.until(() => node.notices.some(({ type }) => type === 'started'))
    expect(await executions.cancel(execution.id, 'default')).toMatchObject({
      status: 'cancelled',
      result: { exitCode: null },
    })
    const ended = node.engine.execute(spec('true'), CONTEXT)
    await ended.result
    expect(await executions.cancel(ended.id, 'default')).toMatchObject({ status: 'succeeded' })
  })

  test('while its sandbox is being made', async () => {
    const created = Promise.withResolvers<void>()
    await using node = await openTestEngine({
      runtime: { createMs: 1 },
      deps: { clock: { sleep: () => created.promise } },
    })
    const execution = node.engine.execute(spec('true'), CONTEXT)
    execution.cancel()
    expect(await execution.result).toMatchObject({ status: 'cancelled' })
    created.resolve()
  })
})

describe('closing', () => {
  test('lets what runs end within its grace, refuses what waits and what comes', async () => {
    await using node = await openTestEngine({ limits: { maxRunning: 1 } })
    const running = node.engine.execute(spec('echo a'), CONTEXT)
    const waiting = node.engine.execute(spec('echo b'), CONTEXT)
    const closing = node.engine.close({ graceMs: 60_000 })
    await expect(waiting.result).rejects.toMatchObject({ code: 'shutting_down' })
    expect(() => node.engine.execute(spec('true'), CONTEXT)).toThrow(expect.objectContaining({ code: 'shutting_down' }))
    expect(await running.result).toMatchObject({ status: 'succeeded' })
    await closing
    expect(node.host.sandboxes.size).toBe(0)
    await node.engine.close()
  })

  test('cancels what does not end', async () => {
    await using node = await openTestEngine()
    const running = node.engine.execute(spec('sleep 1000'), CONTEXT)
    await node.engine.close({ graceMs: 1 })
    expect(await running.result).toMatchObject({ status: 'cancelled' })
    expect(node.host.sandboxes.size).toBe(0)
  })
})

describe('opening', () => {
  test('removes what an earlier node left, before it serves', async () => {
    await using first = await openTestEngine({ limits: { minReady: 2 } })
    await first.until((engine) => engine.status().pooled === 2)
    expect(first.host.sandboxes.size).toBe(2)
    await using second = await openTestEngine({ deps: { host: first.host } })
    expect(second.host.sandboxes.size).toBe(0)
  })

  test('is refused while another engine has the directory', async () => {
    await using node = await openTestEngine()
    await expect(openTestEngine({ directory: node.directory })).rejects.toMatchObject({ code: 'conflict' })
  })
})

describe('images', () => {
  test('in use are not removed; pooled sandboxes are given up for it', async () => {
    const images = memoryImages(namedImage('base'))
    await using node = await openTestEngine({ images, limits: { minReady: 2 } })
    await node.until((engine) => engine.pools.list().some(({ ready }) => ready === 2))
    const running = node.engine.execute(spec('sleep 1000'), CONTEXT)
    const { digest } = images.resolve('base')
    await expect(node.engine.images.remove(digest, { inUse: () => false })).rejects.toMatchObject({
      code: 'image_in_use',
    })
    running.cancel()
    await running.result
    await node.engine.images.remove(digest, { inUse: () => false })
    expect(node.host.sandboxes.size).toBe(0)
    expect(node.engine.pools.list()).toEqual([])
    expect(() => node.engine.execute(spec('true'), CONTEXT)).toThrow(
      expect.objectContaining({ code: 'image_not_found' }),
    )
  })
})
