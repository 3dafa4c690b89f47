import { createHash, randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { collect, endOf, outputOf, PATH, runCommand } from './run-command.ts'
import { configOf, type Fixture } from './subject.ts'

const MIB = 1024 * 1024
const LARGE_BYTES = 32 * MIB

const sha256 = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex')

/** Input and output: every byte, in order, at the reader's pace. */
export const testStreams = (subject: Fixture): void => {
  describe('streams', () => {
    test('stdout and stderr are apart', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      const { stdout, stderr } = await runCommand(sandbox, 'echo out; echo err >&2; echo out')
      expect([stdout.toString(), stderr.toString()]).toEqual(['out\nout\n', 'err\n'])
    })

    test('without stdin a command reads the end of file', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      expect(await outputOf(sandbox, ['cat'])).toBe('')
      expect(await outputOf(sandbox, ['cat'], { input: '' })).toBe('')
    })

    test('bytes that are no text pass both ways', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      const input = randomBytes(2 * MIB + 1)
      const { stdout } = await runCommand(sandbox, ['cat'], { input })
      expect(sha256(stdout)).toBe(sha256(input))
    })

    test('a command that does not read its input swallows it', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      expect(await outputOf(sandbox, 'head -c 1', { input: Buffer.alloc(MIB, 'x') })).toBe('x')
      expect(await endOf(sandbox, ['true'], { input: Buffer.alloc(MIB) })).toBe(0)
    })

    test('large output comes whole', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      const { stdout } = await runCommand(sandbox, `yes | head -c ${LARGE_BYTES}`)
      expect(sha256(stdout)).toBe(sha256(Buffer.alloc(LARGE_BYTES, 'y\n')))
    })

    test('a reader that stalls stalls its command, and no other', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      const stalled = sandbox.agent.exec({ argv: ['yes'], env: { PATH } })
      const iterator = stalled[Symbol.asyncIterator]()
      await iterator.next()
      for (let n = 0; n < 20; n++) expect(await outputOf(sandbox, ['echo', `${n}`])).toBe(`${n}\n`)
      const more = await iterator.next()
      expect(more.value).toMatchObject({ type: 'stdout' })
      await iterator.return?.()
      expect(await endOf(sandbox, ['true'])).toBe(0)
    })

    test('a stream that is discarded does not hold the command', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      const script = `yes | head -c ${LARGE_BYTES}; echo done >&2`
      const running = sandbox.agent.exec({ argv: ['sh', '-c', script], env: { PATH } })
      running.discard('stdout')
      const { stdout, stderr, exit } = await collect(running)
      expect(exit).toMatchObject({ kind: 'exited', code: 0 })
      expect(stderr.toString()).toBe('done\n')
      expect(stdout.length).toBeLessThan(MIB)
    })
  })
}
