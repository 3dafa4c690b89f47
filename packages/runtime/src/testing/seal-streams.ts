import { once } from 'node:events'
import { setImmediate } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { Sandbox } from '../runtime.ts'
import { followLog } from './follow-log.ts'
import { endOf, outputOf, PATH } from './run-command.ts'
import { remembering, start } from './seal-memory.ts'
import { configFrom, seal, storeOf } from './seal-states.ts'
import { configOf, type Fixture, skip } from './subject.ts'

const PORT = 8080

/** What processes have open, and find again in a copy. */
export const testSealStreams = (subject: Fixture): void => {
  const fixture = remembering(subject)

  describe('what is open in a seal with memory', () => {
    test('pipes, with what is in them', async (context) => {
      const { runtime, ...rest } = fixture(context)
      await using parent = await runtime.create(configOf(rest))
      const log = followLog(parent)
      // The last one waits, so that lines stay in the pipe.
      start(
        parent,
        'pipes',
        '(echo one; echo two; read a; echo three) | (until test -e /root/go; do sleep 0.01; done; cat)',
      )
      await outputOf(parent, 'until test "$(cat /root/ready)"; do echo ready > /root/ready; done')
      const name = await seal(parent, true)
      await using copy = await runtime.create(configFrom(rest, name, { memory: true }))
      const copyLog = followLog(copy)
      for (const [sandbox, each] of [
        [copy, copyLog],
        [parent, log],
      ] as const) {
        await outputOf(sandbox, 'touch /root/go')
        await each.until(() => each.text('pipes') === 'one\ntwo\n')
        await sandbox.agent.log.commands.get('pipes')?.write(Buffer.from('\n'))
        await each.until(() => each.text('pipes') === 'one\ntwo\nthree\n')
      }
      await storeOf(runtime).remove(name)
    })

    test('a terminal', async (context) => {
      const { runtime, ...rest } = fixture(context)
      await using parent = await runtime.create(configOf(rest))
      const log = followLog(parent)
      const request = { argv: ['cat'], env: { PATH }, pty: { cols: 80, rows: 24 }, stdin: 'pipe' } as const
      const terminal = parent.agent.log.start(request, 'terminal')
      await terminal.write(Buffer.from('before\n'))
      await log.until(() => log.text('terminal').includes('before'))
      const name = await seal(parent, true)
      await using copy = await runtime.create(configFrom(rest, name, { memory: true }))
      const copyLog = followLog(copy)
      const found = copy.agent.log.commands.get('terminal')
      expect(found?.pty).toBe(true)
      found?.resize({ cols: 100, rows: 30 })
      await found?.write(Buffer.from('in the copy\n'))
      await terminal.write(Buffer.from('in the parent\n'))
      await copyLog.until(() => copyLog.text('terminal').includes('in the copy'))
      await log.until(() => log.text('terminal').includes('in the parent'))
      expect(copyLog.text('terminal')).not.toContain('in the parent')
      await storeOf(runtime).remove(name)
    })

    test('a file that was deleted', async (context) => {
      const { runtime, ...rest } = fixture(context)
      await using parent = await runtime.create(configOf(rest))
      const log = followLog(parent)
      await outputOf(parent, 'for line in 1 2 3; do echo $line >> /root/lines; done')
      const wait = 'until test -e /root/go$line; do sleep 0.01; done'
      start(parent, 'reads', `(while read line; do echo $line; ${wait}; done) < /root/lines`)
      await log.until(() => log.text('reads') === '1\n')
      await outputOf(parent, 'rm /root/lines')
      const name = await seal(parent, true)
      await using copy = await runtime.create(configFrom(rest, name, { memory: true }))
      const copyLog = followLog(copy)
      expect(await endOf(copy, 'cat /root/lines')).not.toBe(0)
      for (const [sandbox, each] of [
        [copy, copyLog],
        [parent, log],
      ] as const) {
        await outputOf(sandbox, 'touch /root/go1 /root/go2 /root/go3')
        await each.until(() => sandbox.agent.log.commands.size === 0)
        expect(each.text('reads')).toBe('1\n2\n3\n')
      }
      await storeOf(runtime).remove(name)
    })

    test('commands without a name go on in the sandbox, and end in the copy', async (context) => {
      const { runtime, ...rest } = fixture(context)
      await using parent = await runtime.create(configOf(rest))
      const running = parent.agent.exec({ argv: ['cat'], env: { PATH }, stdin: 'pipe' })
      const events = running[Symbol.asyncIterator]()
      await events.next()
      const name = await seal(parent, true)
      await using copy = await runtime.create(configFrom(rest, name, { memory: true }))
      // The agent is one; what is asked for ends with its answer.
      while ((await copy.stats()).processes > 1) await setImmediate()
      await running.write(Buffer.from('on'))
      expect((await events.next()).value).toEqual({ type: 'stdout', data: Buffer.from('on') })
      running.end()
      expect((await events.next()).value).toMatchObject({ type: 'exit', code: 0 })
      await storeOf(runtime).remove(name)
    })

    test('a TCP socket that listens', async (context) => {
      const { runtime, ...rest } = fixture(context)
      await using parent = await runtime.create(configOf(rest))
      const log = followLog(parent)
      if ((await endOf(parent, 'test -e /bin/httpd')) !== 0) skip(context, 'its sandboxes have no httpd')
      await outputOf(parent, 'mkdir /srv; echo page > /srv/index.html')
      start(parent, 'server', `echo begun; exec httpd -f -p ${PORT} -h /srv`)
      await log.until(() => log.text('server') === 'begun\n')
      await page(parent)
      const name = await seal(parent, true)
      expect((await storeOf(runtime).memory(name))?.ports).toEqual([PORT])
      await using copy = await runtime.create(configFrom(rest, name, { memory: true }))
      await outputOf(copy, 'echo other > /srv/index.html')
      expect([await page(parent), await page(copy)]).toEqual(['page\n', 'other\n'])
      await storeOf(runtime).remove(name)
    })

    test('a Unix socket', async (context) => {
      const { runtime, ...rest } = fixture(context)
      await using parent = await runtime.create(configOf(rest))
      if ((await endOf(parent, 'test -e /bin/syslogd')) !== 0) skip(context, 'its sandboxes have no syslogd')
      start(parent, 'log', 'exec syslogd -n -O /root/messages')
      await outputOf(parent, 'until test -S /dev/log; do sleep 0.01; done; logger before')
      const name = await seal(parent, true)
      await using copy = await runtime.create(configFrom(rest, name, { memory: true }))
      await outputOf(
        copy,
        'logger copy; until grep copy /root/messages; do sleep 0.01; done; grep before /root/messages',
      )
      await outputOf(parent, 'logger parent; until grep parent /root/messages; do sleep 0.01; done')
      expect(await endOf(parent, 'grep copy /root/messages')).toBe(1)
      await storeOf(runtime).remove(name)
    })
  })
}

/** What the server in the sandbox answers; asked again until it listens. */
const page = async (sandbox: Sandbox): Promise<string> => {
  for (;;) {
    const socket = await sandbox.agent.connect({ port: PORT }).catch(() => undefined)
    if (!socket) {
      await setImmediate()
      continue
    }
    const chunks: Buffer[] = []
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
    socket.write('GET /index.html HTTP/1.0\r\n\r\n')
    await once(socket, 'end')
    socket.destroy()
    return Buffer.concat(chunks).toString().split('\r\n\r\n')[1] ?? ''
  }
}
