import { describe, expect, test } from 'vitest'
import { endOf, outputOf, PATH } from './run-command.ts'
import { configOf, type Fixture, skip } from './subject.ts'

/** Stopping a sandbox where it is, for drivers that can. */
export const testPause = (subject: Fixture): void => {
  const pausing: Fixture = (context) => {
    const opened = subject(context)
    if (!opened.runtime.capabilities.pause) skip(context, 'the driver cannot pause a sandbox')
    return opened
  }

  describe('pause', () => {
    test('a paused sandbox uses no processor time, and goes on where it was', async (context) => {
      const { runtime, ...rest } = pausing(context)
      await using sandbox = await runtime.create(configOf(rest))
      await using other = await runtime.create(configOf(rest))
      const busy = sandbox.agent.exec({ argv: ['sh', '-c', 'while :; do :; done'], env: { PATH } })
      const events = busy[Symbol.asyncIterator]()
      expect((await events.next()).value).toMatchObject({ type: 'started' })
      await sandbox.pause()
      expect(sandbox.paused).toBe(true)
      const { cpuMs } = await sandbox.stats()
      for (let i = 0; i < 20; i++) expect(await endOf(other, ['true'])).toBe(0)
      expect((await sandbox.stats()).cpuMs).toBe(cpuMs)
      await sandbox.resume()
      expect(sandbox.paused).toBe(false)
      while ((await sandbox.stats()).cpuMs <= cpuMs) await sandbox.agent.ping()
      busy.kill(9)
      expect((await events.next()).value).toMatchObject({ kind: 'signalled', signal: 9 })
    })

    test('a command that is asked for meanwhile runs after resume', async (context) => {
      const { runtime, ...rest } = pausing(context)
      await using sandbox = await runtime.create(configOf(rest))
      await sandbox.resume()
      await Promise.all([sandbox.pause(), sandbox.pause()])
      await sandbox.pause()
      let ended = false
      const said = outputOf(sandbox, 'echo awake').finally(() => {
        ended = true
      })
      await using other = await runtime.create(configOf(rest))
      expect(await endOf(other, ['true'])).toBe(0)
      expect(ended).toBe(false)
      await Promise.all([sandbox.resume(), sandbox.resume()])
      expect(await said).toBe('awake\n')
    })

    test('a paused sandbox can be destroyed', async (context) => {
      const { runtime, ...rest } = pausing(context)
      const sandbox = await runtime.create(configOf(rest))
      await sandbox.pause()
      await sandbox.destroy()
      expect(await sandbox.ended).toEqual({ by: 'destroy' })
      expect(await runtime.list()).not.toContain(sandbox.id)
      await expect(sandbox.resume()).rejects.toMatchObject({ code: 'sandbox_died' })
    })
  })
}
