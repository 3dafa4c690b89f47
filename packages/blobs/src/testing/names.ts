import { LIMITS } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import { listOf, noise } from './bytes.ts'
import { type OpenStore, skip } from './subject.ts'

const HOSTILE = [
  '',
  '.',
  '..',
  '/',
  'a/',
  '/a',
  'a//b',
  'a/./b',
  'a/../b',
  '../escaped',
  'a\\b',
  'a b',
  'a\0b',
  'a%2fb',
  'ü',
  'a\n',
  'a~',
  'x'.repeat(121),
  Array(6).fill('x'.repeat(100)).join('/'),
]

export const testNames = (open: OpenStore): void => {
  describe('names', () => {
    test('are set, replaced, read and removed', async (context) => {
      const { store, reopen } = await open(context)
      const { names } = store
      expect(await names.get('results/a')).toBeUndefined()
      await names.set('results/a', Buffer.from('first'))
      await names.set('results/a', Buffer.from('second'))
      await names.set('empty', Buffer.alloc(0))
      const largest = noise(LIMITS.maxNameValueBytes.value)
      await names.set('large', largest)
      const later = reopen ? (await reopen()).names : names
      expect(Buffer.from((await later.get('results/a')) ?? []).toString()).toBe('second')
      expect(await later.get('empty')).toHaveLength(0)
      expect(Buffer.from((await later.get('large')) ?? []).equals(largest)).toBe(true)
      await later.remove('results/a')
      await later.remove('results/a')
      expect(await later.get('results/a')).toBeUndefined()
      expect(await listOf(later.list(''))).toEqual(['empty', 'large'])
    })

    test('are listed by prefix, in order of their characters', async (context) => {
      const { names } = (await open(context)).store
      const all = ['B', 'a', 'a-b', 'a.b', 'a/', 'a/-', 'a/B', 'a/b', 'a/b/c', 'a/b-c', 'a0', 'aa', 'b', 'b/x/y/z', '_']
      const good = all.filter((name) => !name.endsWith('/'))
      await Promise.all(good.map((name) => names.set(name, Buffer.from(name))))
      const expected = (prefix: string): string[] => good.filter((name) => name.startsWith(prefix)).sort()
      for (const prefix of ['', 'a', 'a/', 'a/b', 'a/b/', 'b/x/y', 'B', 'zz', 'a//', '../', 'a/../'])
        expect(await listOf(names.list(prefix)), `prefix ${JSON.stringify(prefix)}`).toEqual(expected(prefix))
      for (const name of good) expect(Buffer.from((await names.get(name)) ?? []).toString()).toBe(name)
      for (const name of good) await names.remove(name)
      expect(await listOf(names.list(''))).toEqual([])
    })

    test('of any length that is allowed', async (context) => {
      const { names } = (await open(context)).store
      const longest = [...Array(4).fill('X'.repeat(120)), 'y'.repeat(28)].join('/')
      expect(longest).toHaveLength(512)
      for (const name of [longest, 'X'.repeat(120), '...', '-', 'con', '.hidden']) {
        await names.set(name, Buffer.from('kept'))
        expect(Buffer.from((await names.get(name)) ?? []).toString()).toBe('kept')
      }
    })

    for (const name of HOSTILE)
      test(`${JSON.stringify(name.slice(0, 20))} is refused`, async (context) => {
        const { names } = (await open(context)).store
        const refused = { code: 'invalid_request' }
        await expect(names.set(name, Buffer.from('x'))).rejects.toMatchObject(refused)
        await expect(names.get(name)).rejects.toMatchObject(refused)
        await expect(names.remove(name)).rejects.toMatchObject(refused)
        expect(await listOf(names.list(''))).toEqual([])
      })

    test('a value that is too large is refused', async (context) => {
      const { names } = (await open(context)).store
      const value = Buffer.alloc(LIMITS.maxNameValueBytes.value + 1)
      await expect(names.set('large', value)).rejects.toMatchObject({ code: 'body_too_large' })
      expect(await names.get('large')).toBeUndefined()
    })

    test('set by many at once: one of them, whole', async (context) => {
      const { store, reopen } = await open(context)
      const values = Array.from({ length: 20 }, (_, i) => noise(20_000, i))
      await Promise.all(values.map((value) => store.names.set('contended', value)))
      await store.names.set('after', Buffer.from('1'))
      const { names } = reopen ? await reopen() : store
      const kept = Buffer.from((await names.get('contended')) ?? [])
      expect(values.filter((value) => value.equals(kept))).toHaveLength(1)
    })

    test('the value is that of the call', async (context) => {
      const { names } = (await open(context)).store
      const value = Buffer.from('before')
      await names.set('name', value)
      value.fill('x')
      const read = Buffer.from((await names.get('name')) ?? [])
      expect(read.toString()).toBe('before')
      read.fill('y')
      expect(Buffer.from((await names.get('name')) ?? []).toString()).toBe('before')
    })

    test('are no blobs', async (context) => {
      const { store, reopen } = await open(context)
      await store.names.set('a/b', noise(5000))
      expect(await listOf(store.list())).toEqual([])
      if (!reopen) return skip(context, 'nothing outlives the store')
      expect(await listOf((await reopen()).list())).toEqual([])
    })
  })
}
