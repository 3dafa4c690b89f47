import { describe, expect, test } from 'vitest'
import type { LayerEntry } from '../seals/seals.ts'
import { outputOf, runCommand } from './run-command.ts'
import {
  bytes,
  collectBytes,
  configFrom,
  directoryEntry,
  entriesOf,
  fifoEntry,
  fileEntry,
  hides,
  linkEntry,
  newSealName,
  seal,
  sourceOf,
  storeOf,
  symlinkEntry,
  textAt,
} from './seal-states.ts'
import { configOf, type Fixture } from './subject.ts'

const withoutVersion = (entry: LayerEntry | undefined): LayerEntry | undefined => {
  if (entry?.type !== 'file') return entry
  const { version: _, ...rest } = entry
  return rest
}

const NS = 1_000_000_000n

/** What is in a seal, read and written without a sandbox. */
export const testSealEntries = (subject: Fixture): void => {
  describe('entries of seals', () => {
    test('say of every file what the sandbox made of it', async (context) => {
      const { runtime, ...rest } = subject(context)
      const store = storeOf(runtime)
      await using sandbox = await runtime.create(configOf(rest))
      await outputOf(
        sandbox,
        `mkdir -p /srv/sub; echo hello > /srv/file; ln /srv/file /srv/sub/other; ln -s ../missing /srv/symlink
         mkfifo /srv/fifo; chown 1000:50 /srv/file; chmod 4640 /srv/file; chmod 1777 /srv/sub; : > /srv/empty
         rm /etc/not-executable; rm -r /home/app; mkdir /home/app; echo new > /home/app/new`,
      )
      const name = await seal(sandbox)
      const entries = await entriesOf(runtime, name)
      expect(entries.get('srv')).toMatchObject({ type: 'directory', uid: 0, gid: 0, mode: 0o755 })
      const file = entries.get('srv/file')
      expect(file).toMatchObject({ type: 'file', uid: 1000, gid: 50, mode: 0o4640, sizeBytes: 6 })
      expect(entries.get('srv/sub/other')).toEqual({ path: 'srv/sub/other', type: 'link', target: 'srv/file' })
      expect(entries.get('srv/sub')).toMatchObject({ type: 'directory', mode: 0o1777 })
      expect(entries.get('srv/symlink')).toMatchObject({ type: 'symlink', target: '../missing' })
      expect(entries.get('srv/fifo')).toMatchObject({ type: 'fifo' })
      expect(entries.get('srv/empty')).toMatchObject({ type: 'file', sizeBytes: 0 })
      if (file?.type !== 'file') throw new Error('no file')
      const seconds = (await outputOf(sandbox, 'stat -c %Y /srv/file')).trim()
      expect(String(file.modifiedNs / NS)).toBe(seconds)
      expect(hides(entries, 'etc/not-executable')).toBe(true)
      expect(hides(entries, 'home/app/hello.txt')).toBe(true)
      expect(entries.get('home/app/new')).toMatchObject({ type: 'file', sizeBytes: 4 })
      expect(entries.has('etc/passwd')).toBe(false)

      expect(await textAt(runtime, name, 'srv/file')).toBe('hello\n')
      expect(await textAt(runtime, name, 'srv/empty')).toBe('')
      for (const path of ['srv/none', 'srv', 'srv/symlink', 'srv/fifo', 'srv/file/x', '../srv/file', 'etc/passwd'])
        await expect(textAt(runtime, name, path)).rejects.toMatchObject({ code: 'file_not_found' })
      await store.remove(name)
    })

    test('names are bytes, and paths may be deep', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      await outputOf(sandbox, 'mkdir /srv')
      const odd = ['\xff\xfe', '\xc3(', 'a\nb', ' -x', bytes('é'), bytes('😀')].map((name) => `srv/${name}`)
      for (const path of odd)
        expect(
          (await runCommand(sandbox, [], { argv: ['touch', Buffer.from(`/${path}`, 'latin1')] })).exit,
        ).toMatchObject({ code: 0 })
      const deep = `srv/${Array.from({ length: 150 }, () => 'directory').join('/')}`
      await outputOf(sandbox, ['mkdir', '-p', `/${deep}`])
      const name = await seal(sandbox)
      const entries = await entriesOf(runtime, name)
      for (const path of odd) expect(entries.get(path)).toMatchObject({ type: 'file', sizeBytes: 0 })
      expect(entries.get(deep)).toMatchObject({ type: 'directory' })
      const copy = newSealName()
      await storeOf(runtime).write(copy, sourceOf([...entries.values()]))
      expect([...(await entriesOf(runtime, copy)).keys()]).toEqual([...entries.keys()])
      for (const each of [name, copy]) await storeOf(runtime).remove(each)
    })

    test('of large files come whole', async (context) => {
      const { runtime, ...rest } = subject(context)
      const store = storeOf(runtime)
      await using sandbox = await runtime.create(configOf(rest))
      const data = Buffer.alloc(5_000_001, 'bramble ')
      await runCommand(sandbox, 'cat > /root/large', { input: data })
      const name = await seal(sandbox)
      expect((await entriesOf(runtime, name)).get('root/large')).toMatchObject({ sizeBytes: data.length })
      expect((await collectBytes(store.read(name, 'root/large'))).equals(data)).toBe(true)
      const reader = store.read(name, 'root/large')[Symbol.asyncIterator]()
      await reader.next()
      await reader.return?.()
      const aborted = AbortSignal.abort(new Error('enough'))
      await expect(collectBytes(store.read(name, 'root/large', { signal: aborted }))).rejects.toThrow('enough')
      await expect(
        (async () => {
          for await (const _ of store.entries(name, { signal: aborted })) break
        })(),
      ).rejects.toThrow('enough')
      await store.remove(name)
    })

    test('what is written is what is read, and what a sandbox has', async (context) => {
      const { runtime, coarseSeals, ...rest } = subject(context)
      const store = storeOf(runtime)
      const name = newSealName()
      const xattrs = { xattrs: { 'user.note': new Uint8Array([1, 0, 255]) } }
      const written: LayerEntry[] = [
        directoryEntry('etc'),
        { path: 'etc/not-executable', type: 'deleted' },
        directoryEntry('home'),
        directoryEntry('home/app', { opaque: true, uid: 1000, gid: 1000, mode: 0o700 }),
        fileEntry('home/app/new', 3),
        directoryEntry('srv', { mode: 0o2775, gid: 50 }),
        fifoEntry('srv/fifo', { uid: 7 }),
        fileEntry('srv/file', 100_000, { mode: 0o4755, uid: 1000, gid: 50, modifiedNs: 999_999_999n, ...xattrs }),
        linkEntry('srv/other', 'srv/file'),
        symlinkEntry('srv/symlink', '/etc/passwd', { uid: 1000, modifiedNs: 1n }),
        fileEntry('é', 0),
      ]
      const content = Buffer.alloc(100_000, 'content ')
      await store.write(name, sourceOf(written, { 'srv/file': content }))
      const read = await entriesOf(runtime, name)
      for (const entry of written) {
        // What a directory of the image hides may be told in more than one way.
        if (entry.type !== 'deleted' && !['etc', 'home', 'home/app'].includes(entry.path))
          expect(withoutVersion(read.get(entry.path))).toEqual(entry)
      }
      expect(hides(read, 'etc/not-executable')).toBe(true)
      expect(hides(read, 'home/app/hello.txt')).toBe(true)
      expect((await collectBytes(store.read(name, 'srv/file'))).equals(content)).toBe(true)

      await using sandbox = await runtime.create(configFrom(rest, name))
      expect(await outputOf(sandbox, 'stat -c "%a %u %g" /srv /srv/file /srv/fifo /home/app; ls /home/app')).toBe(
        '2775 0 50\n4755 1000 50\n640 7 0\n700 1000 1000\nnew\n',
      )
      expect(await outputOf(sandbox, 'stat -c %Y /srv; cat /home/app/new; test -f /é; ls /srv')).toBe(
        '1234567890\nxxxfifo\nfile\nother\nsymlink\n',
      )
      expect((await runCommand(sandbox, ['cat', '/srv/other'])).stdout.equals(content)).toBe(true)
      await outputOf(sandbox, 'echo more >> /srv/file; rm /srv/fifo')

      const again = await seal(sandbox)
      const after = await entriesOf(runtime, again)
      expect(after.has('srv/fifo')).toBe(false)
      expect(after.get('srv/file')).toMatchObject({
        sizeBytes: content.length + 5,
        uid: 1000,
        ...(!coarseSeals && xattrs),
      })
      if (!coarseSeals) expect(after.get('srv/other')).toEqual(written.find(({ path }) => path === 'srv/other'))
      const symlink = written.find(({ path }) => path === 'srv/symlink')
      expect(after.get('srv/symlink')).toEqual(coarseSeals ? { ...symlink, modifiedNs: 0n } : symlink)
      for (const each of [name, again]) await store.remove(each)
    })

    test('versions that are equal mean bytes that are', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      await outputOf(sandbox, 'echo same > /root/same; echo one > /root/changed')
      const one = await seal(sandbox)
      await outputOf(sandbox, 'echo two > /root/changed')
      const two = await seal(sandbox)
      const versions = async (name: string, path: string) => {
        const entry = (await entriesOf(runtime, name)).get(path)
        return entry?.type === 'file' ? entry.version : undefined
      }
      const before = await versions(one, 'root/changed')
      if (before !== undefined) expect(await versions(two, 'root/changed')).not.toBe(before)
      expect([await textAt(runtime, one, 'root/changed'), await textAt(runtime, two, 'root/changed')]).toEqual([
        'one\n',
        'two\n',
      ])
      for (const each of [one, two]) await storeOf(runtime).remove(each)
    })
  })
}
