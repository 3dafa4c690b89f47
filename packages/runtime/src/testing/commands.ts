import { constants } from 'node:os'
import { describe, expect, test } from 'vitest'
import { collect, endOf, outputOf, PATH, runCommand } from './run-command.ts'
import { configOf, type Fixture, skip } from './subject.ts'

const { ENOENT, EACCES } = constants.errno

/** What a command is given, and how its end is told. */
export const testCommands = (subject: Fixture): void => {
  describe('commands', () => {
    test('arguments arrive as they are', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      const words = ['a b', '', '$HOME', "it's", 'ünï\ncode', '-x', '*']
      expect(await outputOf(sandbox, ['printf', '%s|', ...words])).toBe(`${words.join('|')}|`)
    })

    test('the environment is what was given and nothing else', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      const env = { PATH, EMPTY: '', SPACED: ' x y ', EQUALS: 'a=b' }
      const lines = (await outputOf(sandbox, ['env'], { env })).split('\n').filter(Boolean).sort()
      expect(lines).toEqual(
        Object.entries(env)
          .map(([name, value]) => `${name}=${value}`)
          .sort(),
      )
      const large = Object.fromEntries(Array.from({ length: 6 }, (_, n) => [`V${n}`, 'x'.repeat(120_000)]))
      expect(await outputOf(sandbox, 'echo "$V5"', { env: { PATH, ...large } })).toBe(`${large.V5}\n`)
    })

    test('the working directory is what was asked for; one that is not there fails the command', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      expect(await outputOf(sandbox, ['pwd'], { workdir: '/tmp' })).toBe('/tmp\n')
      const { exit } = await runCommand(sandbox, ['pwd'], { workdir: '/nowhere' })
      expect(exit).toMatchObject({ kind: 'failed', step: 'workdir', errno: ENOENT })
    })

    test('the user is looked up in the sandbox', async (context) => {
      const { runtime, sharesHost, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      if (sharesHost) skip(context, 'the users are those of the host')
      expect(await outputOf(sandbox, 'id -u; id -g')).toBe('0\n0\n')
      expect(await outputOf(sandbox, 'id -u; id -g; id -G', { user: 'app' })).toBe('1000\n1000\n1000 50\n')
      expect(await outputOf(sandbox, 'id -u; id -g', { user: '1234:app' })).toBe('1234\n1000\n')
      expect(await endOf(sandbox, 'ls /root', { user: 'app' })).toBe(1)
      expect((await runCommand(sandbox, ['true'], { user: 'ghost' })).exit).toMatchObject({
        kind: 'failed',
        step: 'user',
      })
    })

    test('exit codes are those of the command', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      for (const code of [0, 1, 42, 255]) expect(await endOf(sandbox, `exit ${code}`)).toBe(code)
    })

    test('a command that is not there, or cannot be executed, is told from one that failed', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      await outputOf(sandbox, 'echo text > plain; chmod 644 plain')
      const failed = async (argv: string[]) => (await runCommand(sandbox, argv)).exit
      expect(await failed(['no-such-command'])).toMatchObject({ kind: 'failed', step: 'exec', errno: ENOENT })
      expect(await failed(['/no/such/command'])).toMatchObject({ kind: 'failed', step: 'exec', errno: ENOENT })
      expect(await failed(['./plain'])).toMatchObject({ kind: 'failed', step: 'exec', errno: EACCES })
      expect(await endOf(sandbox, 'no-such-command')).toBe(127)
      expect(await endOf(sandbox, './plain')).toBe(126)
    })

    test('a signal that ended the command is told', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      expect(await endOf(sandbox, 'kill -9 $$')).toBe('signal 9')
      expect(await endOf(sandbox, 'kill -TERM $$')).toBe('signal 15')
    })

    test('kill reaches the whole process group', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      // With `linger` the end is told only when nobody holds the output any more: when every sleep is gone.
      const script = 'sleep 100000 & sleep 100000 & echo ready; wait'
      const running = sandbox.agent.exec({ argv: ['sh', '-c', script], env: { PATH }, linger: true })
      let exit: unknown
      for await (const event of running) {
        if (event.type === 'stdout') running.kill(15)
        if (event.type === 'exit') exit = event
      }
      expect(exit).toMatchObject({ kind: 'signalled', signal: 15 })
    })

    test('a daemon that a command leaves behind does not hold its end back', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      expect(await outputOf(sandbox, 'sleep 100000 & echo started')).toBe('started\n')
    })

    test('leaving the events early kills the command', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      let pid = 0
      for await (const event of sandbox.agent.exec({ argv: ['sleep', '100000'], env: { PATH } })) {
        if (event.type === 'started') pid = event.pid
        break
      }
      expect(pid).toBeGreaterThan(1)
      // The kill is a frame under way: ask until it has arrived. The time limit of the test bounds it.
      while ((await endOf(sandbox, `kill -0 ${pid}`)) === 0) await sandbox.agent.ping()
    })

    test('many commands run at once', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      const numbers = Array.from({ length: 24 }, (_, n) => n)
      const said = await Promise.all(numbers.map((n) => outputOf(sandbox, ['sh', '-c', `echo ${n}; exit 0`])))
      expect(said).toEqual(numbers.map((n) => `${n}\n`))
    })

    test('events begin with started and end with exit', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      const types: string[] = []
      for await (const event of sandbox.agent.exec({ argv: ['echo', 'x'], env: { PATH } })) types.push(event.type)
      expect(types).toEqual(['started', 'stdout', 'exit'])
    })

    test('the applets of the agent put and get files without a shell', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      const agent = '/.bramble/agent'
      const script = '#!/bin/sh\necho "ran as $0"\n'
      const path = 'deep/er/script.sh'
      expect(await endOf(sandbox, [agent, 'put', path, '755'], { input: script })).toBe(0)
      expect(await outputOf(sandbox, [`./${path}`])).toBe(`ran as ./${path}\n`)
      expect(await outputOf(sandbox, [agent, 'get', path, '1000'])).toBe(script)
      const ends = [
        [path, '3', 4],
        ['missing', '10', 2],
        ['deep', '10', 3],
      ] as const
      for (const [file, maxBytes, code] of ends) expect(await endOf(sandbox, [agent, 'get', file, maxBytes])).toBe(code)
      const unfinished = sandbox.agent.exec({ argv: [agent, 'put', path, '600'], env: {}, stdin: 'pipe' })
      await unfinished.write(Buffer.from('half'))
      unfinished.kill(9)
      await collect(unfinished)
      expect(await outputOf(sandbox, [agent, 'get', path, '1000'])).toBe(script)
    })
  })
}
