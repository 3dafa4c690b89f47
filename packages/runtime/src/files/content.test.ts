import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chown,
  copyFile,
  mkdir,
  readdir,
  readFile,
  readlink,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises'
import { describe, expect, it, vi } from 'vitest'
import { agentBinaryPath } from '../agent/agent-binary.ts'
import { bytesOf, isRoot, pieces, useFileArena } from './testing/file-arena.ts'

const MARK = 'm'.repeat(32)
const refused = { code: 'file_refused' }

describe('the content of files', () => {
  const arena = useFileArena()

  it('is written with its parents, and read back with what the file is', async () => {
    const { files, at } = arena()
    const content = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))
    const written = await files.write(at('a/b/c.bin'), content)
    expect(written).toMatchObject({ type: 'file', sizeBytes: 256, mode: 0o644, path: Buffer.from(at('a/b/c.bin')) })
    const { info, body } = await files.read(at('a/b/c.bin'))
    expect(info).toEqual(written)
    expect(await bytesOf(body)).toEqual(content)
    expect(await readdir(at('a/b'))).toEqual(['c.bin'])
  })

  it('takes nothing, much, and pieces of every size', async () => {
    const { files, at } = arena()
    await files.write(at('sizes'), new Uint8Array(0))
    expect(await bytesOf((await files.read(at('sizes'))).body)).toEqual(Buffer.alloc(0))
    for (const size of [1, 31, 32, 33, 131_071, 131_072, 131_073, 5_000_000]) {
      const content = Buffer.alloc(size, 'abcdefghijk')
      await files.write(at('sizes'), content)
      expect((await bytesOf((await files.read(at('sizes'))).body)).equals(content)).toBe(true)
    }
    await files.write(at('sizes'), pieces('one ', '', 'two', MARK))
    expect(await readFile(at('sizes'), 'utf8')).toBe(`one two${MARK}`)
  })

  it('has names of any bytes and any length that the system allows', async () => {
    const { files, spawned, at } = arena()
    const name = Buffer.from([...Array.from({ length: 255 }, (_, index) => index + 1)].filter((byte) => byte !== 47))
    const path = Buffer.concat([Buffer.from(`${spawned.folder}/`), name])
    expect((await files.write(path, Buffer.from('x'))).path).toEqual(path)
    expect((await files.stat(path)).path).toEqual(path)
    expect((await files.list(spawned.folder)).items.map((item) => item.path)).toContainEqual(path)
    await files.remove(path)
    await expect(files.stat(path)).rejects.toMatchObject({ code: 'file_not_found' })

    const begin = at('')
    const parts = Array.from({ length: 20 }, () => 'n'.repeat(200)).join('/')
    const longest = `${begin}${'/'.repeat(4095 - begin.length - parts.length)}${parts}`
    expect(longest.length).toBe(4095)
    await files.write(longest, Buffer.from('far'))
    expect(await bytesOf((await files.read(longest)).body)).toEqual(Buffer.from('far'))
    await expect(files.write(`${longest}n`, Buffer.from('x'))).rejects.toMatchObject(refused)
    await files.remove(at('n'.repeat(200)), { recursive: true })
    await expect(files.write(at('n'.repeat(256)), Buffer.from('x'))).rejects.toMatchObject(refused)
  })

  it('keeps mode and owner of a file that was there, unless it is told others', async () => {
    const { files, at } = arena()
    await writeFile(at('kept'), 'old', { mode: 0o640 })
    if (isRoot) await chown(at('kept'), 12, 34)
    const old = await stat(at('kept'))
    await files.write(at('kept'), Buffer.from('new'))
    const { mode, uid, gid, ino } = await stat(at('kept'))
    expect({ mode, uid, gid }).toEqual({ mode: old.mode, uid: old.uid, gid: old.gid })
    expect(ino).not.toBe(old.ino)
    const owner = isRoot ? { uid: 56, gid: 78 } : { uid: old.uid, gid: old.gid }
    expect(await files.write(at('kept'), Buffer.from('new'), { mode: 0o4711, owner })).toMatchObject({
      mode: 0o4711,
      ...owner,
    })
  })

  it('goes where a link leads when that is a file, and replaces no other thing', async () => {
    const { files, at, sh } = arena()
    await sh('mkdir links; cd links; echo old > file; ln -s file one; ln -s one two; ln -s /no/where dangling')
    await sh('cd links; mkdir dir; ln -s dir todir; ln -s loop loop; mkfifo fifo; ln -s fifo tofifo')
    await files.write(at('links/two'), Buffer.from('new'))
    expect(await readFile(at('links/file'), 'utf8')).toBe('new')
    expect(await readlink(at('links/two'))).toBe('one')
    await files.write(at('links/dangling'), Buffer.from('here'))
    expect((await stat(at('links/dangling'))).size).toBe(4)
    for (const name of ['dir', 'todir', 'loop', 'fifo', 'tofifo', 'file/', 'file/under'])
      await expect(files.write(at(`links/${name}`), Buffer.from('x')), name).rejects.toMatchObject(refused)
    await expect(files.write('/', Buffer.from('x'))).rejects.toMatchObject(refused)
    await expect(files.write(`${at('links')}/..`, Buffer.from('x'))).rejects.toMatchObject(refused)
    const kinds = await sh('cd links; stat -c %F dir todir loop fifo tofifo')
    expect(kinds).toBe('directory\nsymbolic link\nsymbolic link\nfifo\nsymbolic link\n')
    expect(await arena().leftovers(at('links'))).toEqual([])
  })

  it('is read in ranges, of huge files too', async () => {
    const { files, at } = arena()
    await writeFile(at('ten'), '0123456789')
    const range = async (offset?: number, length?: number) => {
      const { info, body } = await files.read(at('ten'), {
        ...(offset && { offset }),
        ...(length !== undefined && { length }),
      })
      expect(info.sizeBytes).toBe(10)
      return (await bytesOf(body)).toString()
    }
    expect(await range(3)).toBe('3456789')
    expect(await range(3, 4)).toBe('3456')
    expect(await range(0, 0)).toBe('')
    expect(await range(8, 100)).toBe('89')
    expect(await range(10)).toBe('')
    expect(await range(2 ** 50, 1)).toBe('')
    await expect(files.read(at('ten'), { offset: -1 })).rejects.toMatchObject({ code: 'invalid_request' })
    await expect(files.read(at('ten'), { length: 0.5 })).rejects.toMatchObject({ code: 'invalid_request' })
    await truncate(at('ten'), 10 * 2 ** 30)
    const { info, body } = await files.read(at('ten'), { offset: 10 * 2 ** 30 - 5 })
    expect(info.sizeBytes).toBe(10 * 2 ** 30)
    expect(await bytesOf(body)).toEqual(Buffer.alloc(5))
  })

  it('has holes where it had long runs of zeros', async () => {
    const { files, at } = arena()
    const zeros = Buffer.alloc(1 << 20)
    const source = async function* () {
      yield Buffer.from('begin')
      for (let count = 0; count < 256; count++) yield zeros
      yield Buffer.from('end')
      yield zeros
    }
    await files.write(at('sparse'), source())
    const { size, blocks } = await stat(at('sparse'))
    expect(size).toBe(257 * (1 << 20) + 8)
    expect(blocks * 512).toBeLessThan(256 * 1024)
    let bytes = 0
    let others = ''
    for await (const piece of (await files.read(at('sparse'))).body) {
      bytes += piece.length
      if (piece.some((byte) => byte !== 0)) others += piece.toString('latin1').replaceAll('\0', '')
    }
    expect([bytes, others]).toEqual([size, 'beginend'])
  })

  it('is that of the kernel where a file says it is empty, and its length is told', async () => {
    const { files } = arena()
    const { info, body } = await files.read('/proc/self/status')
    const content = await bytesOf(body)
    expect(content.toString()).toContain('Name:')
    expect(info.sizeBytes).toBe(content.length)
    const online = await files.read('/sys/devices/system/cpu/online')
    expect(online.info.sizeBytes).toBe((await bytesOf(online.body)).length)
  })

  it('is refused where there is none, without waiting', async () => {
    const { files, at, sh } = arena()
    await sh('mkfifo waiting; ln -s circle circle')
    for (const path of ['/dev/zero', at('waiting'), at('agent.sock'), at(''), at('circle'), '/dev/null'])
      await expect(files.read(path), path).rejects.toMatchObject(refused)
    await expect(files.read(at('none'))).rejects.toMatchObject({ code: 'file_not_found', detail: /none/ })
    await expect(files.read(at('agent.sock/under'))).rejects.toMatchObject({ code: 'file_not_found' })
    for (const path of ['', 'a\0b', Buffer.from([97, 0])])
      await expect(files.read(path)).rejects.toMatchObject({ code: 'invalid_request' })
  })

  it('is whole or not there: a source that breaks, an abort, and a client that is gone change nothing', async () => {
    const { files, at, spawned, leftovers } = arena()
    await mkdir(at('atomic'))
    await writeFile(at('atomic/file'), 'old')
    await expect(files.write(at('atomic/file'), pieces('half', new Error('it broke')))).rejects.toThrow('it broke')

    const controller = new AbortController()
    const aborting = async function* () {
      yield Buffer.alloc(300_000, 'x')
      controller.abort(new Error('enough'))
      await new Promise(() => {})
    }
    const call = { signal: controller.signal }
    await expect(files.write(at('atomic/file'), aborting(), call)).rejects.toThrow('enough')
    await expect(files.write(at('atomic/file'), Buffer.from('x'), call)).rejects.toThrow('enough')
    expect(await readFile(at('atomic/file'), 'utf8')).toBe('old')
    expect(await leftovers(at('atomic'))).toEqual([])

    // Standard input that ends is no sign that the content did.
    const cut = spawn(spawned.binary, ['write', at('atomic/file'), MARK], { stdio: ['pipe', 'ignore', 'pipe'] })
    cut.stdin.end('half')
    expect(await once(cut, 'exit')).toEqual([1, null])
    const killed = spawn(spawned.binary, ['write', at('atomic/new'), MARK], { stdio: ['pipe', 'ignore', 'ignore'] })
    killed.stdin.on('error', () => {})
    await new Promise((resolve) => killed.stdin.write(Buffer.alloc(400_000, 'x'), resolve))
    killed.kill('SIGKILL')
    await once(killed, 'exit')
    expect(await readdir(at('atomic'))).toEqual(['file'])
    expect(await readFile(at('atomic/file'), 'utf8')).toBe('old')
  })

  it.runIf(isRoot)('leaves nothing behind where files must have names, when it is killed', async () => {
    const { at } = arena()
    // Without /proc a file that has no name cannot be given one.
    await mkdir(at('root'))
    await copyFile(agentBinaryPath(), at('root/agent'))
    const start = (path: string) => {
      const child = spawn('chroot', [at('root'), '/agent', 'write', path, MARK], {
        stdio: ['pipe', 'ignore', 'ignore'],
      })
      child.stdin.on('error', () => {})
      return child
    }
    const whole = start('/whole')
    whole.stdin.end(`content${MARK}`)
    expect(await once(whole, 'exit')).toEqual([0, null])
    const killed = start('/killed')
    await new Promise((resolve) => killed.stdin.write(Buffer.alloc(400_000, 'x'), resolve))
    expect((await readdir(at('root'))).filter((name) => name.startsWith('.bramble'))).toHaveLength(1)
    killed.kill('SIGKILL')
    await once(killed, 'exit')
    await vi.waitFor(async () => expect((await readdir(at('root'))).sort()).toEqual(['agent', 'whole']))
    expect(await readFile(at('root/whole'), 'utf8')).toBe('content')
  })

  it('stops asking a source once the file is refused', async () => {
    const { files, at } = arena()
    let returned = false
    const endless = async function* () {
      try {
        for (;;) yield Buffer.alloc(65_536)
      } finally {
        returned = true
      }
    }
    await expect(files.write(at(''), endless())).rejects.toMatchObject(refused)
    await vi.waitFor(() => expect(returned).toBe(true))
  })

  it('ends its program when nobody wants the rest of it', async () => {
    const { files, at, sh } = arena()
    await truncate(at('ten'), 2 ** 33).catch(() => writeFile(at('ten'), '').then(() => truncate(at('ten'), 2 ** 33)))
    const running = async () =>
      (await sh(`cat /proc/[0-9]*/cmdline 2>&1 | tr '\\0' ' ' | grep -c "[r]ead ${at('ten')}" || true`)).trim()
    const { body } = await files.read(at('ten'))
    for await (const piece of body) {
      expect(piece.length).toBeGreaterThan(0)
      break
    }
    const unread = await files.read(at('ten'))
    await unread.body[Symbol.asyncIterator]().return?.()
    const controller = new AbortController()
    const aborted = await files.read(at('ten'), { signal: controller.signal })
    controller.abort(new Error('enough'))
    await expect(bytesOf(aborted.body)).rejects.toThrow('enough')
    await vi.waitFor(async () => expect(await running()).toBe('0'))
  })

  it('says when a file became shorter while it was read', async () => {
    const { files, at } = arena()
    await writeFile(at('shrinks'), Buffer.alloc(64 << 20, 'x'))
    const { info, body } = await files.read(at('shrinks'))
    expect(info.sizeBytes).toBe(64 << 20)
    await truncate(at('shrinks'), 1000)
    await expect(bytesOf(body)).rejects.toMatchObject(refused)
  })

  it.runIf(isRoot)('is reached with the permissions of the user', async () => {
    const { files, at, sh } = arena()
    await sh(
      'chmod 755 .; mkdir -m 700 private; mkdir -m 777 open; echo secret > private/file; ln -s ../private/file open/way',
    )
    const user = 'nobody'
    const denied = { code: 'file_refused', detail: expect.stringContaining('Permission denied') }
    for (const path of ['private/file', 'open/way']) {
      await expect(files.read(at(path), { user })).rejects.toMatchObject(denied)
      await expect(files.write(at(path), Buffer.from('x'), { user })).rejects.toMatchObject(denied)
    }
    await expect(files.list(at('private'), { user })).rejects.toMatchObject(denied)
    const mine = await files.write(at('open/mine'), Buffer.from('x'), { user, mode: 0o600 })
    expect(mine.uid).toBe(65_534)
    // Who may not give files away does not, and then the bits that lend rights go.
    await sh('echo x > open/roots; chmod 4755 open/roots')
    expect(await files.write(at('open/roots'), Buffer.from('y'), { user })).toMatchObject({ uid: 65_534, mode: 0o755 })
    await expect(files.read(at('open/mine'), { user: 'no-such-user' })).rejects.toMatchObject(refused)
    await symlink('/etc/shadow', at('open/shadow'))
    await expect(files.read(at('open/shadow'), { user })).rejects.toMatchObject(denied)
  })
})
