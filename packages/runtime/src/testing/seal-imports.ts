import { describe, expect, test } from 'vitest'
import type { LayerEntry } from '../seals/seals.ts'
import { outputOf } from './run-command.ts'
import {
  configFrom,
  directoryEntry,
  fifoEntry,
  fileEntry,
  linkEntry,
  newSealName,
  sourceOf,
  storeOf,
  symlinkEntry,
} from './seal-states.ts'
import { type Fixture, type Subject, skip } from './subject.ts'

const MIB = 1024 * 1024
const deleted = (path: string): LayerEntry => ({ path, type: 'deleted' })

/** What an enemy may send. */
const HOSTILE: readonly [string, readonly LayerEntry[]][] = [
  ['a path that leaves the root', [fileEntry('../escaped', 1)]],
  ['one that leaves it later', [directoryEntry('a'), fileEntry('a/../../escaped', 1)]],
  ['an absolute path', [fileEntry('/etc/shadow', 1)]],
  ['no path', [fileEntry('', 1)]],
  ['the directory itself', [fileEntry('.', 1)]],
  ['a path with an empty name', [directoryEntry('a'), fileEntry('a//b', 1)]],
  ['a path that ends in a slash', [directoryEntry('a/')]],
  ['a zero byte', [fileEntry('a\0b', 1)]],
  ['more than bytes', [{ ...fileEntry('a', 1), path: 'a\u0100' } as LayerEntry]],
  ['a name that is too long', [fileEntry('n'.repeat(256), 1)]],
  ['a path that is too long', [fileEntry(Array.from({ length: 5000 }, () => 'n').join('/'), 1)]],
  ['a path that comes twice', [fileEntry('a', 1), fileEntry('a', 1)]],
  ['a parent after what is in it', [fileEntry('a/b', 1), directoryEntry('a')]],
  ['a parent that is a symlink', [symlinkEntry('a', '/etc'), fileEntry('a/b', 1)]],
  ['a parent that is a file', [fileEntry('a', 1), fileEntry('a/b', 1)]],
  ['a parent that was deleted', [deleted('a'), fileEntry('a/b', 1)]],
  ['a parent that is a fifo', [fifoEntry('a'), directoryEntry('a/b')]],
  ['a link to nothing', [linkEntry('b', 'a')]],
  ['a link to what comes later', [linkEntry('a', 'b'), fileEntry('b', 1)]],
  ['a link to a directory', [directoryEntry('a'), linkEntry('b', 'a')]],
  ['a link that leaves the root', [fileEntry('a', 1), linkEntry('b', '../../../etc/shadow')]],
  ['a symlink to nowhere', [symlinkEntry('a', '')]],
  ['a mode with a type', [fileEntry('a', 1, { mode: 0o60644 })]],
  ['an owner that is none', [fileEntry('a', 1, { uid: -1 })]],
  ['an owner past all', [fileEntry('a', 1, { gid: 2 ** 32 })]],
  ['a size below zero', [fileEntry('a', -1)]],
  ['a size that is no number', [fileEntry('a', Number.NaN)]],
  ['an attribute of overlayfs', [directoryEntry('a', { xattrs: { 'trusted.overlay.opaque': Buffer.from('y') } })]],
  ['an attribute of the host', [fileEntry('a', 1, { xattrs: { 'security.selinux': Buffer.from('x') } })]],
  ['a device', [{ ...fileEntry('a', 1), type: 'device' } as unknown as LayerEntry]],
]

/** Seals that are written of what somebody sent. */
export const testSealImports = (subject: Fixture): void => {
  /** `name` is free: nothing of it is there, and it can be written. */
  const expectNothing = async ({ runtime, image }: Pick<Subject, 'runtime' | 'image'>, name: string) => {
    const store = storeOf(runtime)
    expect((await store.list()).map((seal) => seal.name)).not.toContain(name)
    await store.write(name, sourceOf([directoryEntry('srv'), fileEntry('srv/file', 2)]))
    await using sandbox = await runtime.create(configFrom({ image }, name))
    expect(await outputOf(sandbox, 'cat /srv/file; ls /srv')).toBe('xxfile\n')
    await store.remove(name)
  }

  describe('imports', () => {
    for (const [what, entries] of HOSTILE)
      test(`${what} is refused`, async (context) => {
        const { runtime } = subject(context)
        const name = newSealName()
        const store = storeOf(runtime)
        await expect(store.write(name, sourceOf(entries))).rejects.toMatchObject({ code: 'import_refused' })
        expect((await store.list()).map((seal) => seal.name)).not.toContain(name)
      })

    test('a refusal leaves nothing', async (context) => {
      const opened = subject(context)
      const name = newSealName()
      const entries = [directoryEntry('srv'), fileEntry('srv/first', 10), fileEntry('srv/first', 10)]
      await expect(storeOf(opened.runtime).write(name, sourceOf(entries))).rejects.toMatchObject({
        code: 'import_refused',
      })
      await expectNothing(opened, name)
    })

    test('sizes that lie are refused, and leave nothing', async (context) => {
      const opened = subject(context)
      const store = storeOf(opened.runtime)
      const name = newSealName()
      for (const length of [0, 9, 11, MIB]) {
        const source = sourceOf([directoryEntry('srv'), fileEntry('srv/lies', 10)], {
          'srv/lies': Buffer.alloc(length),
        })
        await expect(store.write(name, source)).rejects.toMatchObject({ code: 'import_refused' })
      }
      await expectNothing(opened, name)
    })

    test('more than it may have is not taken', async (context) => {
      const opened = subject(context)
      if (!opened.runtime.capabilities.limits.disk) skip(context, 'the driver does not limit the disk')
      const name = newSealName()
      const files = Array.from({ length: 8 }, (_, n) => fileEntry(`srv/${n}`, 4 * MIB))
      const source = { ...sourceOf([directoryEntry('srv'), ...files]), diskBytes: 8 * MIB }
      await expect(storeOf(opened.runtime).write(name, source)).rejects.toMatchObject({
        code: expect.stringMatching(/^(import_refused|store_full)$/),
      })
      await expectNothing(opened, name)
    })

    test('a source that fails, or is not wanted any more, leaves nothing', async (context) => {
      const opened = subject(context)
      const store = storeOf(opened.runtime)
      const name = newSealName()
      const source = sourceOf([directoryEntry('srv'), fileEntry('srv/file', 2)])
      const stop = new AbortController()
      const failing = (act: () => void) => ({
        ...source,
        read: async function* () {
          yield Buffer.from('x')
          act()
          yield Buffer.from('x')
        },
      })
      const failure = new Error('the other node went away')
      const fails = failing(() => {
        throw failure
      })
      await expect(store.write(name, fails)).rejects.toThrow(failure.message)
      const reason = new Error('not wanted')
      const ends = failing(() => stop.abort(reason))
      await expect(store.write(name, ends, { signal: stop.signal })).rejects.toBe(reason)
      await expectNothing(opened, name)
    })
  })
}
