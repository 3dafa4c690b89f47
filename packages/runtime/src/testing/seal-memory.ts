import { setImmediate } from 'node:timers/promises'
import { newId } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import type { Runtime, Sandbox } from '../runtime.ts'
import { followLog } from './follow-log.ts'
import { endOf, outputOf, PATH } from './run-command.ts'
import { configFrom, newSealName, seal, sealing, storeOf } from './seal-states.ts'
import { configOf, type Fixture, skip } from './subject.ts'

/** Counts in a variable, in x: one line more each turn. With a child that writes where only a file system in memory has it. */
const COUNTER =
  'n=; (while :; do echo child; sleep 0.02; done >> /dev/shm/child) & while :; do n=x$n; echo $n; sleep 0.01; done'

/** The subject, where its driver saves memory. */
export const remembering =
  (subject: Fixture): Fixture =>
  (context) => {
    const opened = sealing(subject)(context)
    if (!opened.runtime.capabilities.checkpoint) skip(context, 'the driver does not save memory')
    return opened
  }

export const start = (sandbox: Sandbox, name: string, script: string) =>
  sandbox.agent.log.start({ argv: ['sh', '-c', script], env: { PATH }, stdin: 'pipe' }, name)

/** How far the counter came; throws where a number is missing, or comes twice. */
const counted = (text: string): number => {
  const lines = text.split('\n').slice(0, -1)
  for (const [index, line] of lines.entries())
    if (line !== 'x'.repeat(index + 1)) throw new Error(`line ${index} has ${line.length}`)
  return lines.length
}

/** What goes on where it was, in any number of copies. */
export const testSealMemory = (subject: Fixture): void => {
  const fixture = remembering(subject)

  describe('seals with memory', () => {
    test('a shell, its variable and its child go on in the sandbox and in each copy; the log loses nothing', async (context) => {
      const { runtime, ...rest } = fixture(context)
      await using parent = await runtime.create(configOf(rest))
      const log = followLog(parent)
      start(parent, 'counter', COUNTER)
      await log.until(() => counted(log.text('counter')) >= 5)
      const name = await seal(parent, true)
      const at = counted(log.text('counter'))
      const copies = await Promise.all(
        [0, 1, 2].map((n) => runtime.create(configFrom(rest, name, { memory: true, hostname: `copy${n}` }))),
      )
      const logs = copies.map(followLog)
      await Promise.all([log, ...logs].map((each) => each.until(() => counted(each.text('counter')) >= at + 20)))
      for (const [n, copy] of copies.entries()) {
        expect([...copy.agent.log.commands.keys()]).toEqual(['counter'])
        expect(await outputOf(copy, 'hostname')).toBe(`copy${n}\n`)
        const lines = async () => (await outputOf(copy, 'cat /dev/shm/child')).length
        const before = await lines()
        while ((await lines()) <= before) await setImmediate()
      }
      // Each on its own: what one does, the others do not see.
      copies[0]?.agent.log.commands.get('counter')?.kill(9)
      await logs[0]?.until(() => copies[0]?.agent.log.commands.size === 0)
      const later = counted(log.text('counter')) + 5
      await Promise.all([log, logs[1]].map((each) => each?.until(() => counted(each.text('counter')) >= later)))
      await Promise.all(copies.map((copy) => copy.destroy()))
      await storeOf(runtime).remove(name)
    })

    test('what the seal says of itself', async (context) => {
      const { runtime, ...rest } = fixture(context)
      const store = storeOf(runtime)
      await using parent = await runtime.create(configOf(rest))
      const log = followLog(parent)
      start(parent, 'waits', 'echo ready; read line')
      await log.until(() => log.text('waits') === 'ready\n')
      const name = await seal(parent, true)
      expect(await store.list()).toContainEqual({ name, memory: true })
      const memory = await store.memory(name)
      expect(memory?.requires).toMatchObject({ architecture: process.arch, runtime: parent.runtime })
      expect(store.offers).toMatchObject({ architecture: process.arch, format: memory?.requires.format })
      expect(memory?.processes.map(({ command }) => command).join()).toContain('read line')
      expect(memory?.sizeBytes).toBe(memory?.files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0))
      expect(await store.usedBytes(name)).toBeGreaterThanOrEqual(memory?.sizeBytes ?? 1)
      await expect(store.readMemory(name, '../info.json')[Symbol.asyncIterator]().next()).rejects.toMatchObject({
        code: 'file_not_found',
      })
      // Its files alone can be continued, too.
      await using files = await runtime.create(configFrom(rest, name))
      expect(files.agent.log.commands.size).toBe(0)
      await store.remove(name)
    })

    test('one that was read and written again continues as it did, also after a restart', async (context) => {
      const { openFresh, ...rest } = fixture(context)
      const fresh = await openFresh()
      await fresh.runtime.prepare(rest.image)
      const parent = await fresh.runtime.create(configOf(rest))
      const log = followLog(parent)
      await outputOf(parent, 'echo file > /root/file')
      const command = start(parent, 'asks', 'kept=memory; echo ready; read line; echo $kept $line; cat /root/file')
      await log.until(() => log.text('asks') === 'ready\n')
      const name = await seal(parent, true)
      await command.write(Buffer.from('parent\n'))
      await log.until(() => log.text('asks') === 'ready\nmemory parent\nfile\n')
      const copy = await copySeal(fresh.runtime, name)
      await storeOf(fresh.runtime).sync(copy)
      await using next = await fresh.restart()
      await next.reap()
      await next.prepare(rest.image)
      for (const each of [name, copy]) {
        await using branch = await next.create(configFrom(rest, each, { memory: true }))
        const branchLog = followLog(branch)
        await branch.agent.log.commands.get('asks')?.write(Buffer.from('branch\n'))
        await branchLog.until(() => branchLog.text('asks') === 'ready\nmemory branch\nfile\n')
        await branchLog.until(() => branch.agent.log.commands.size === 0)
        await branch.destroy()
        await storeOf(next).remove(each)
      }
      await fresh.runtime.close()
    })

    test('again and again, and of copies of copies', async (context) => {
      const { runtime, ...rest } = fixture(context)
      const store = storeOf(runtime)
      await using parent = await runtime.create(configOf(rest))
      const log = followLog(parent)
      start(parent, 'counter', COUNTER)
      let last = parent
      const made: Sandbox[] = []
      for (let generation = 0; generation < 4; generation++) {
        await log.until(() => counted(log.text('counter')) > generation)
        const name = await seal(last, true)
        last = await runtime.create(configFrom(rest, name, { memory: true }))
        made.push(last)
        await store.remove(name)
      }
      for (let turn = 0; turn < 3; turn++) await store.remove(await seal(parent, true))
      const logs = [log, ...made.map(followLog)]
      const goal = counted(log.text('counter')) + 10
      await Promise.all(logs.map((each) => each.until(() => counted(each.text('counter')) >= goal)))
      expect(await endOf(last, ['true'])).toBe(0)
      await Promise.all(made.map((sandbox) => sandbox.destroy()))
    })

    test('a kept copy goes on without its runtime', async (context) => {
      const { openFresh, ...rest } = fixture(context)
      const fresh = await openFresh()
      await fresh.runtime.prepare(rest.image)
      const parent = await fresh.runtime.create(configOf(rest))
      const log = followLog(parent)
      start(parent, 'counter', COUNTER)
      await log.until(() => counted(log.text('counter')) >= 3)
      const name = await seal(parent, true)
      const config = configFrom(rest, name, { memory: true, layer: newId('instance') })
      const copy = await fresh.runtime.create(config)
      const copyLog = followLog(copy)
      await copyLog.until(() => counted(copyLog.text('counter')) >= 10)
      await fresh.runtime.close()
      await using next = await (fresh.reopen ?? fresh.restart)()
      await next.reap(new Set([config.id]))
      const attached = await next.attach(config)
      copyLog.goOn(attached)
      const goal = copyLog.entries.length + 10
      await copyLog.until(() => counted(copyLog.text('counter')) >= goal)
      await attached.destroy()
      await storeOf(next).remove(name)
    })

    test('what cannot be saved is said, and the sandbox goes on', async (context) => {
      const { runtime, refusesMemoryOf, ...rest } = fixture(context)
      if (!refusesMemoryOf) return skip(context, 'nothing is known that the driver cannot save')
      const store = storeOf(runtime)
      await using sandbox = await runtime.create(configOf(rest))
      const log = followLog(sandbox)
      start(sandbox, 'counter', COUNTER)
      await refusesMemoryOf(sandbox)
      const name = newSealName()
      for (let turn = 0; turn < 2; turn++)
        await expect(sandbox.seal?.({ name, memory: true })).rejects.toMatchObject({ code: 'checkpoint_refused' })
      expect((await store.list()).map((each) => each.name)).not.toContain(name)
      const goal = counted(log.text('counter')) + 5
      await log.until(() => counted(log.text('counter')) >= goal)
      expect(await endOf(sandbox, ['true'])).toBe(0)
      await sandbox.seal?.({ name, memory: false })
      await using branch = await runtime.create(configFrom(rest, name))
      expect(await endOf(branch, ['true'])).toBe(0)
      await store.remove(name)
      return undefined
    })
  })
}

/** Another seal, of what is read of `name`. */
const copySeal = async (runtime: Runtime, name: string): Promise<string> => {
  const store = storeOf(runtime)
  const info = await store.memory(name)
  if (!info) throw new Error('the seal has no memory')
  const copy = newSealName()
  await store.write(copy, {
    entries: store.entries(name),
    read: (path) => store.read(name, path),
    diskBytes: 64 * 1024 * 1024,
    memory: { info, read: (file) => store.readMemory(name, file) },
  })
  return copy
}
