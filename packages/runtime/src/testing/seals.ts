import { newId } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import { endOf, outputOf, PATH } from './run-command.ts'
import { testSealEntries } from './seal-entries.ts'
import { testSealImports } from './seal-imports.ts'
import { testSealMemory } from './seal-memory.ts'
import { configFrom, directoryEntry, fileEntry, newSealName, seal, sealing, sourceOf, storeOf } from './seal-states.ts'
import { testSealStreams } from './seal-streams.ts'
import { configOf, type Fixture, skip } from './subject.ts'

const MIB = 1024 * 1024

/** States of sandboxes, and what continues from them, for drivers that keep them. */
export const testSeals = (subject: Fixture): void => {
  const fixture = sealing(subject)
  testSealFiles(fixture)
  testSealLife(fixture)
  testSealEntries(fixture)
  testSealImports(fixture)
  testSealMemory(fixture)
  testSealStreams(fixture)
}

const testSealFiles = (subject: Fixture): void => {
  describe('seals of files', () => {
    test('what continues from one has its files, and neither sees what the other writes afterwards', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using parent = await runtime.create(configOf(rest))
      await outputOf(parent, 'echo before > /root/file; mkdir /root/new; chmod 700 /root/new; chown 1000 /root/new')
      await outputOf(parent, 'rm /home/app/hello.txt')
      const name = await seal(parent)
      await outputOf(parent, 'echo after >> /root/file; echo mine > /root/parent; rm -r /root/new')
      await using branch = await runtime.create(configFrom(rest, name))
      expect(await outputOf(branch, 'cat /root/file; stat -c "%a %u" /root/new; ls /home/app')).toBe(
        'before\n700 1000\n',
      )
      await outputOf(branch, 'echo branch > /root/file')
      expect(await endOf(branch, 'cat /root/parent')).not.toBe(0)
      expect(await outputOf(parent, 'cat /root/file')).toBe('before\nafter\n')
      await using second = await runtime.create(configFrom(rest, name))
      expect(await outputOf(second, 'cat /root/file')).toBe('before\n')
      await storeOf(runtime).remove(name)
    })

    test('the sandbox goes on, and every command in it', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using parent = await runtime.create(configOf(rest))
      const running = parent.agent.exec({ argv: ['cat'], env: { PATH }, stdin: 'pipe' })
      const events = running[Symbol.asyncIterator]()
      expect((await events.next()).value).toMatchObject({ type: 'started' })
      const names = [await seal(parent), await seal(parent)]
      await running.write(Buffer.from('on'))
      expect((await events.next()).value).toEqual({ type: 'stdout', data: Buffer.from('on') })
      running.end()
      expect((await events.next()).value).toMatchObject({ type: 'exit', code: 0 })
      for (const name of names) await storeOf(runtime).remove(name)
    })

    test('ten branches at once, and branches of a branch', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using parent = await runtime.create(configOf(rest))
      await outputOf(parent, 'echo root > /root/file')
      const name = await seal(parent)
      const branches = await Promise.all(
        Array.from({ length: 10 }, (_, n) => runtime.create(configFrom(rest, name, { hostname: `branch${n}` }))),
      )
      const said = await Promise.all(
        branches.map((branch, n) => outputOf(branch, `echo ${n} >> /root/file; hostname; cat /root/file`)),
      )
      expect(said).toEqual(branches.map((_, n) => `branch${n}\nroot\n${n}\n`))
      const [first] = branches
      if (!first) throw new Error('no branch')
      const next = await seal(first)
      await using leaf = await runtime.create(configFrom(rest, next))
      expect(await outputOf(leaf, 'cat /root/file')).toBe('root\n0\n')
      await Promise.all(branches.map((branch) => branch.destroy()))
      expect(await outputOf(leaf, 'cat /root/file')).toBe('root\n0\n')
      for (const each of [name, next]) await storeOf(runtime).remove(each)
    })

    test('one of a kept sandbox continues in a kept one, whose layer is its own', async (context) => {
      const { runtime, ...rest } = subject(context)
      if (!runtime.capabilities.keep) skip(context, 'the driver keeps no sandboxes')
      const [layer, other] = [newId('instance'), newId('instance')]
      const parent = await runtime.create(configOf(rest, { layer }))
      await outputOf(parent, 'echo one > /root/file')
      const name = await seal(parent)
      const branch = await runtime.create(configFrom(rest, name, { layer: other }))
      await outputOf(branch, 'echo two >> /root/file')
      await expect(runtime.create(configFrom(rest, name, { layer }))).rejects.toMatchObject({ code: 'conflict' })
      await Promise.all([parent.destroy(), branch.destroy()])
      await expect(runtime.create(configFrom(rest, name, { layer: other }))).rejects.toMatchObject({ code: 'conflict' })
      await storeOf(runtime).remove(name)
      const again = await runtime.create(configOf(rest, { layer: other }))
      expect(await outputOf(again, 'cat /root/file')).toBe('one\ntwo\n')
      const before = await runtime.create(configOf(rest, { layer }))
      expect(await outputOf(before, 'cat /root/file')).toBe('one\n')
      await Promise.all([again.destroy(), before.destroy()])
      for (const each of [layer, other]) await runtime.layers.remove(each)
    })

    test('a paused sandbox can be sealed, and stays paused', async (context) => {
      const { runtime, ...rest } = subject(context)
      if (!runtime.capabilities.pause) skip(context, 'the driver cannot pause a sandbox')
      await using parent = await runtime.create(configOf(rest))
      await outputOf(parent, 'echo still > /root/file')
      await parent.pause()
      const name = await seal(parent)
      expect(parent.paused).toBe(true)
      await using branch = await runtime.create(configFrom(rest, name))
      expect(await outputOf(branch, 'cat /root/file')).toBe('still\n')
      await parent.resume()
      expect(await outputOf(parent, 'cat /root/file')).toBe('still\n')
      await storeOf(runtime).remove(name)
    })
  })
}

const testSealLife = (subject: Fixture): void => {
  describe('the life of seals', () => {
    test('names are told, taken once, and free again after remove', async (context) => {
      const { runtime, ...rest } = subject(context)
      const store = storeOf(runtime)
      await using parent = await runtime.create(configOf(rest))
      await outputOf(parent, 'dd if=/dev/urandom of=/root/big bs=1048576 count=4; sync')
      const name = await seal(parent)
      expect(await store.list()).toContainEqual({ name, memory: false })
      await store.sync(name)
      expect(await store.usedBytes(name)).toBeGreaterThanOrEqual(4 * MIB)
      expect(await store.memory(name)).toBeUndefined()
      await expect(parent.seal?.({ name, memory: false })).rejects.toMatchObject({ code: 'conflict' })
      await expect(store.write(name, sourceOf([]))).rejects.toMatchObject({ code: 'conflict' })
      await using branch = await runtime.create(configFrom(rest, name))
      await store.remove(name)
      await store.remove(name)
      expect(await store.list()).not.toContainEqual({ name, memory: false })
      expect(await outputOf(branch, 'wc -c < /root/big')).toMatch(/^\s*4194304\n$/)
      await parent.seal?.({ name, memory: false })
      await store.remove(name)
    })

    test('one that is not there is not found', async (context) => {
      const { runtime, ...rest } = subject(context)
      const store = storeOf(runtime)
      const name = newSealName()
      const missing = { code: 'not_found' }
      await expect(runtime.create(configFrom(rest, name))).rejects.toMatchObject(missing)
      await expect(store.usedBytes(name)).rejects.toMatchObject(missing)
      await expect(store.sync(name)).rejects.toMatchObject(missing)
      await expect(store.memory(name)).rejects.toMatchObject(missing)
      await expect(store.entries(name)[Symbol.asyncIterator]().next()).rejects.toMatchObject(missing)
      await expect(store.read(name, 'file')[Symbol.asyncIterator]().next()).rejects.toMatchObject(missing)
      await using parent = await runtime.create(configOf(rest))
      for (const bad of ['', '../x', 'A', 'a'.repeat(64)])
        await expect(parent.seal?.({ name: bad, memory: false })).rejects.toMatchObject({ code: 'invalid_request' })
    })

    test('memory that is not in it cannot be continued', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using parent = await runtime.create(configOf(rest))
      const name = await seal(parent)
      await expect(runtime.create(configFrom(rest, name, { memory: true }))).rejects.toMatchObject({
        code: runtime.capabilities.checkpoint ? 'snapshot_incompatible' : 'unsupported',
      })
      await storeOf(runtime).remove(name)
      if (!runtime.capabilities.checkpoint)
        await expect(parent.seal?.({ name: newSealName(), memory: true })).rejects.toMatchObject({
          code: 'unsupported',
        })
    })

    test('they stay when the runtime ends, however it does; what was half made does not', async (context) => {
      const { openFresh, ...rest } = subject(context)
      const fresh = await openFresh()
      await fresh.runtime.prepare(rest.image)
      const parent = await fresh.runtime.create(configOf(rest))
      await outputOf(parent, 'echo kept > /root/file')
      const name = await seal(parent)
      const half = newSealName()
      const begun = Promise.withResolvers<void>()
      const release = Promise.withResolvers<never>()
      const writing = storeOf(fresh.runtime).write(half, {
        ...sourceOf([directoryEntry('srv'), fileEntry('srv/file', 2)]),
        read: async function* () {
          yield Buffer.from('x')
          begun.resolve()
          await release.promise
        },
      })
      const failed = writing.then(
        () => false,
        () => true,
      )
      await begun.promise
      await using next = await fresh.restart()
      await next.reap()
      release.reject(new Error('the one who wrote is gone'))
      expect(await failed).toBe(true)
      await next.prepare(rest.image)
      expect(await storeOf(next).list()).toEqual([{ name, memory: false }])
      await using branch = await next.create(configFrom(rest, name))
      expect(await outputOf(branch, 'cat /root/file')).toBe('kept\n')
      await storeOf(next).write(half, sourceOf([directoryEntry('srv'), fileEntry('srv/file', 2)]))
      await using whole = await next.create(configFrom(rest, half))
      expect(await outputOf(whole, 'cat /srv/file')).toBe('xx')
      await Promise.all([branch.destroy(), whole.destroy()])
      for (const each of [name, half]) await storeOf(next).remove(each)
      expect(await storeOf(next).list()).toEqual([])
      await fresh.runtime.close()
    })
  })
}
