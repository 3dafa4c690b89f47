import { BrambleError } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import type { Sandbox } from '../runtime.ts'
import { endOf, outputOf, runCommand } from './run-command.ts'
import { configOf, type Fixture, skip } from './subject.ts'

const ABORT_AFTER_MS = [0, 2, 10, 40, 120]

const codeOf = (thrown: unknown): string => (thrown instanceof BrambleError ? thrown.code : String(thrown))

/** Making and ending sandboxes. */
export const testLifecycle = (subject: Fixture): void => {
  describe('lifecycle', () => {
    test('a created sandbox runs commands at once, and is gone after destroy', async (context) => {
      const { runtime, ...rest } = subject(context)
      const config = configOf(rest)
      await using sandbox = await runtime.create(config)
      expect(sandbox).toMatchObject({ id: config.id, config, runtime: expect.stringMatching(/./) })
      // A composite names the driver that made it.
      if (runtime.name !== 'auto') expect(sandbox.runtime).toBe(runtime.name)
      expect(await endOf(sandbox, ['true'])).toBe(0)
      await sandbox.agent.ping()
      expect(await runtime.list()).toContain(config.id)
      await sandbox.destroy()
      expect(await sandbox.ended).toEqual({ by: 'destroy' })
      expect(await runtime.list()).not.toContain(config.id)
    })

    test('destroying twice, and at the same time, is safe', async (context) => {
      const { runtime, ...rest } = subject(context)
      const sandbox = await runtime.create(configOf(rest))
      await Promise.all([sandbox.destroy(), sandbox.destroy()])
      await sandbox.destroy()
      await expect(sandbox.agent.ping()).rejects.toMatchObject({ code: 'sandbox_died' })
      await expect(runCommand(sandbox, ['true'])).rejects.toMatchObject({ code: 'sandbox_died' })
      expect(await sandbox.agent.closed.then(() => 'closed')).toBe('closed')
    })

    test('destroy ends a command that runs', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      const events = sandbox.agent.exec({ argv: ['sleep', '100000'], env: { PATH: '/bin:/usr/bin' } })
      const iterator = events[Symbol.asyncIterator]()
      expect((await iterator.next()).value).toMatchObject({ type: 'started' })
      const next = iterator.next().then(
        ({ value }) => value,
        (error) => codeOf(error),
      )
      await sandbox.destroy()
      const end = await next
      // Either the kill is reported before the stream ends, or the stream ends first.
      if (end !== 'sandbox_died') expect(end).toMatchObject({ kind: 'signalled', signal: 9 })
    })

    test('an aborted create rejects with the reason and leaves nothing', async (context) => {
      const { runtime, ...rest } = subject(context)
      const reason = new Error('no longer wanted')
      const aborted = configOf(rest)
      await expect(runtime.create(aborted, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
      expect(await runtime.list()).not.toContain(aborted.id)
      for (const ms of ABORT_AFTER_MS) {
        const config = configOf(rest)
        const controller = new AbortController()
        setTimeout(() => controller.abort(reason), ms)
        const made = await runtime.create(config, { signal: controller.signal }).catch((error: unknown) => {
          expect(error).toBe(reason)
        })
        // It was made before the abort: then it is the caller's, and it lives on.
        if (made) {
          expect(await endOf(made, ['true'])).toBe(0)
          await made.destroy()
        }
        expect(await runtime.list()).not.toContain(config.id)
      }
    })

    test('the death of the agent ends the sandbox by itself', async (context) => {
      const { runtime, killAgent, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      const running = runCommand(sandbox, ['sleep', '100000']).catch(codeOf)
      await sandbox.agent.ping()
      await killAgent(sandbox)
      expect(await sandbox.ended).toMatchObject({ by: 'itself', oomKills: 0 })
      expect(await running).toBe('sandbox_died')
      await sandbox.destroy()
      expect(await runtime.list()).not.toContain(sandbox.id)
    })

    test('many sandboxes live at once, each its own', async (context) => {
      const { runtime, ...rest } = subject(context)
      const configs = Array.from({ length: 8 }, () => configOf(rest))
      const sandboxes = await Promise.all(configs.map((config) => runtime.create(config)))
      try {
        const said = sandboxes.map(({ agent, id }) => outputOf({ agent }, `echo ${id} > mine; cat mine`))
        expect(await Promise.all(said)).toEqual(sandboxes.map(({ id }) => `${id}\n`))
        expect(await runtime.list()).toEqual(expect.arrayContaining(configs.map(({ id }) => id)))
      } finally {
        await Promise.all(sandboxes.map((sandbox) => sandbox.destroy()))
      }
      expect(await runtime.list()).toEqual([])
    })

    test('an image is readied once however often it is asked for, and again after it was forgotten', async (context) => {
      const { runtime, image, ...rest } = subject(context)
      await Promise.all([runtime.prepare(image), runtime.prepare(image), runtime.prepare(image)])
      await runtime.forget(image.digest)
      await runtime.forget(image.digest)
      await runtime.prepare(image)
      await using sandbox = await runtime.create(configOf({ image, ...rest }))
      expect(await endOf(sandbox, ['true'])).toBe(0)
    })

    test('files of one sandbox are not in another, nor in the image', async (context) => {
      const { runtime, sharesHost, ...rest } = subject(context)
      await using one = await runtime.create(configOf(rest))
      await using two = await runtime.create(configOf(rest))
      await outputOf(one, 'echo here > left-behind')
      expect(await endOf(two, 'cat left-behind')).not.toBe(0)
      if (sharesHost) return
      await outputOf(one, 'echo changed > /etc/hostname; rm /home/app/hello.txt')
      await using three = await runtime.create(configOf(rest))
      for (const fresh of [two, three])
        expect(await outputOf(fresh, 'cat /home/app/hello.txt')).toBe('hello from the image\n')
      expect(await outputOf(three, ['ls', '/'])).toBe(await outputOf(two, ['ls', '/']))
    })

    test('the hostname is what was asked for, and the same in all others', async (context) => {
      const { runtime, sharesHost, ...rest } = subject(context)
      if (sharesHost) skip(context, 'the sandbox has the name of its host')
      await using named = await runtime.create(configOf(rest, { hostname: 'thistle' }))
      await using one = await runtime.create(configOf(rest))
      await using two = await runtime.create(configOf(rest))
      expect(await outputOf(named, ['hostname'])).toBe('thistle\n')
      expect(await outputOf(one, ['hostname'])).toBe(await outputOf(two, ['hostname']))
    })
  })

  describe('what an earlier process left', () => {
    test('reap removes it, and leaves alone what this process made', async (context) => {
      const { openFresh, ...rest } = subject(context)
      const { runtime, restart } = await openFresh()
      await runtime.prepare(rest.image)
      const left: Sandbox[] = await Promise.all([runtime.create(configOf(rest)), runtime.create(configOf(rest))])
      expect(await runtime.reap()).toBe(0)
      for (const sandbox of left) expect(await endOf(sandbox, ['true'])).toBe(0)

      await using next = await restart()
      await next.prepare(rest.image)
      await using own = await next.create(configOf(rest))
      expect(await next.reap()).toBe(2)
      expect(await next.list()).toEqual([own.id])
      for (const sandbox of left) expect(await runCommand(sandbox, ['true']).catch(codeOf)).toBe('sandbox_died')
      expect(await endOf(own, ['true'])).toBe(0)
      expect(await next.reap()).toBe(0)
    })

    test('close destroys every sandbox of this process, and is safe twice', async (context) => {
      const { runtime, openFresh, ...rest } = subject(context)
      const fresh = await openFresh()
      await fresh.runtime.prepare(rest.image)
      const made = [fresh.runtime.create(configOf(rest)), fresh.runtime.create(configOf(rest))]
      const sandboxes = await Promise.all(made)
      await using mine = await runtime.create(configOf(rest))
      await Promise.all([fresh.runtime.close(), fresh.runtime.close()])
      for (const sandbox of sandboxes) expect(await sandbox.ended).toEqual({ by: 'destroy' })
      expect(await runtime.list()).toEqual([mine.id])
      expect(await endOf(mine, ['true'])).toBe(0)
      await using next = await fresh.restart()
      expect(await next.list()).toEqual([])
      expect(await next.reap()).toBe(0)
    })
  })
}
