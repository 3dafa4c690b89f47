import { type BatchRequestInput, batchRequestSchema } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import { type BatchEvent, collectBatch, runBatch } from './batch.ts'
import { CONTEXT, openTestEngine } from './testing.ts'

const request = (commands: string[], options: Partial<BatchRequestInput> = {}) =>
  batchRequestSchema.parse({ items: commands.map((command) => ({ command })), ...options })

describe('a batch', () => {
  test('answers with every item in order, each with its own result or error', async () => {
    await using node = await openTestEngine()
    const items = [
      { command: 'echo 0' },
      { command: 'exit 1' },
      { command: 'true', image: 'none' },
      { command: 'echo 3' },
    ]
    const response = await collectBatch(node.engine, batchRequestSchema.parse({ items }), CONTEXT)
    expect(response.items).toMatchObject([
      { index: 0, result: { stdout: '0\n' } },
      { index: 1, result: { status: 'failed' } },
      { index: 2, error: { code: 'image_not_found' } },
      { index: 3, result: { stdout: '3\n' } },
    ])
    expect(response.winner).toBeUndefined()
  })

  test('runs no more than maxConcurrency at once', async () => {
    await using node = await openTestEngine()
    let most = 0
    let now = 0
    const engine: Pick<typeof node.engine, 'execute'> = {
      execute(spec, context) {
        const execution = node.engine.execute(spec, context)
        most = Math.max(most, ++now)
        const ended = () => now--
        execution.result.then(ended, ended)
        return execution
      },
    }
    const { items } = await collectBatch(engine, request(Array(20).fill('true'), { maxConcurrency: 3 }), CONTEXT)
    expect(items).toHaveLength(20)
    expect(most).toBe(3)
  })

  test('a race ends with the first to succeed: the others are cancelled', async () => {
    await using node = await openTestEngine()
    const commands = ['sleep 1000', 'exit 1', 'echo won', 'sleep 1000', 'sleep 1000']
    const response = await collectBatch(
      node.engine,
      request(commands, { strategy: 'race', maxConcurrency: 3 }),
      CONTEXT,
    )
    expect(response.winner).toBe(2)
    expect(response.items).toMatchObject([
      { result: { status: 'cancelled' } },
      { result: { status: 'failed' } },
      { result: { status: 'succeeded', stdout: 'won\n' } },
      {},
      { error: { code: 'cancelled' } },
    ])
    expect(node.engine.status().running).toBe(0)
  })

  test('a race that nobody wins has no winner', async () => {
    await using node = await openTestEngine()
    const response = await collectBatch(node.engine, request(['exit 1', 'exit 2'], { strategy: 'race' }), CONTEXT)
    expect(response.winner).toBeUndefined()
    expect(response.items).toHaveLength(2)
  })

  test('streams the events of its items', async () => {
    await using node = await openTestEngine()
    const events: BatchEvent[] = []
    const batch = runBatch(node.engine, request(['echo a', 'echo b']), { ...CONTEXT, stream: true })
    for await (const event of batch) events.push(event)
    for (const index of [0, 1]) {
      const own = events.filter((event) => event.index === index)
      expect(own.map((event) => ('event' in event ? event.event.type : 'end'))).toEqual([
        'queued',
        'started',
        'stdout',
        'exit',
        'end',
      ])
    }
  })

  test('is cancelled by its signal, and by a reader that leaves; nothing runs then', async () => {
    await using node = await openTestEngine()
    const controller = new AbortController()
    const waiting = collectBatch(node.engine, request(Array(5).fill('sleep 1000'), { maxConcurrency: 2 }), {
      ...CONTEXT,
      signal: controller.signal,
    })
    await node.until((engine) => engine.status().running === 2)
    controller.abort()
    expect((await waiting).items.map((item) => ('result' in item ? item.result.status : item.error.code))).toEqual(
      Array(5).fill('cancelled'),
    )
    for await (const _ of runBatch(node.engine, request(['true', 'sleep 1000']), CONTEXT)) break
    expect(node.engine.status().running).toBe(0)
  })
})
