import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, lstat, mkdir, readdir, readFile, readlink, stat, symlink, writeFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { useFileArena } from './testing/file-arena.ts'

const INIT = Buffer.from([0, 0, 0, 5, 1, 0, 0, 0, 3])
const OPEN = 3
const CLOSE = 4
const READ = 5
const WRITE = 6
const LSTAT = 7
const OPENDIR = 11
const READDIR = 12
const RENAME = 18
const EXTENDED = 200
const STATUS = 101
const HANDLE = 102
const DATA = 103
const NAME = 104

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}
const text = (value: string | Uint8Array): Buffer => Buffer.concat([u32(Buffer.byteLength(value)), Buffer.from(value)])
const packet = (type: number, id: number, ...parts: Buffer[]): Buffer => {
  const body = Buffer.concat([Buffer.from([type]), u32(id), ...parts])
  return Buffer.concat([u32(body.length), body])
}
const u64 = (value: number): Buffer => Buffer.concat([u32(Math.floor(value / 2 ** 32)), u32(value % 2 ** 32)])

interface Answer {
  readonly type: number
  readonly id: number
  readonly body: Buffer
}

const answersOf = (bytes: Buffer): Answer[] => {
  const answers: Answer[] = []
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUInt32BE(at)
    answers.push({
      type: bytes.readUInt8(at + 4),
      id: bytes.readUInt32BE(at + 5),
      body: bytes.subarray(at + 9, at + 4 + length),
    })
    at += 4 + length
  }
  return answers
}

describe('SFTP by the agent', () => {
  const arena = useFileArena()

  /** What the server answers to all this, and how it ends. */
  const serve = async (input: Buffer, directory = arena().at('')) => {
    const server = spawn(arena().spawned.binary, ['sftp', directory], { stdio: ['pipe', 'pipe', 'inherit'] })
    server.stdin.on('error', () => {})
    server.stdin.end(input)
    const pieces: Buffer[] = []
    server.stdout.on('data', (piece: Buffer) => pieces.push(piece))
    const [code] = await once(server, 'close')
    return { code, answers: answersOf(Buffer.concat(pieces)) }
  }
  const statusOf = (answer: Answer | undefined) => (answer?.type === STATUS ? answer.body.readUInt32BE(0) : undefined)

  it('serves OpenSSH’s client', async () => {
    const { at, sh, spawned } = arena()
    await mkdir(at('remote'))
    await mkdir(at('local/src/sub'), { recursive: true })
    const random = (
      await promisify(execFile)('head', ['-c', '5000000', '/dev/urandom'], { encoding: 'buffer', maxBuffer: 1 << 24 })
    ).stdout
    await writeFile(at('local/random'), random)
    await writeFile(at('local/src/sub/file with space'), 'x')
    await writeFile(at('local/src/empty'), '')
    await chmod(at('local/src/sub/file with space'), 0o640)
    await symlink('random', at('local/link'))
    const batch = [
      `lcd ${at('local')}`,
      'cd remote',
      'put random up',
      'get up down',
      'put -Rp src copy',
      'get -Rp copy back',
      'rename up moved',
      'symlink moved soft',
      'ln moved hard',
      'chmod 600 moved',
      'mkdir made',
      'rmdir made',
      '-rmdir copy',
      '-get none',
      'rm hard',
      'df -h',
      'ls -la',
      'ls soft',
    ]
    await writeFile(at('batch'), `${batch.join('\n')}\n`)
    const printed = await sh(`HOME=${at('')} sftp -b batch -D '${spawned.binary} sftp' 2>&1`)
    expect((await readFile(at('local/down'))).equals(random)).toBe(true)
    expect(await readlink(at('remote/soft'))).toBe('moved')
    expect((await readdir(at('remote'))).sort()).toEqual(['copy', 'moved', 'soft'])
    expect((await stat(at('remote/moved'))).mode & 0o777).toBe(0o600)
    expect(await sh('diff -r local/src local/back && diff -r local/src remote/copy')).toBe('')
    expect((await stat(at('remote/copy/sub/file with space'))).mode & 0o777).toBe(0o640)
    expect(printed).toMatch(/^-rw------- +1 0?\d* +\d+ +5000000 .*moved$/m)
    expect(printed).toMatch(/File ".*none" not found/)
    expect(printed).toMatch(/%Capacity/)
  })

  it('answers many requests in flight, in order', async () => {
    const { at } = arena()
    await writeFile(at('flight'), Buffer.from(Array.from({ length: 65_536 }, (_, index) => index >> 8)))
    const requests = [INIT, packet(OPEN, 1, text('flight'), u32(1), u32(0))]
    const handle = Buffer.concat([u32(0), u32(0)])
    handle.writeUInt32LE(1, 4)
    for (let id = 2; id < 2050; id++) requests.push(packet(READ, id, text(handle), u64((id - 2) * 32), u32(32)))
    requests.push(packet(READ, 2050, text(handle), u64(65_536), u32(32)), packet(CLOSE, 2051, text(handle)))
    requests.push(packet(READ, 2052, text(handle), u64(0), u32(32)))
    const { code, answers } = await serve(Buffer.concat(requests))
    expect(code).toBe(0)
    expect(answers[1]?.type).toBe(HANDLE)
    expect(answers[1]?.body).toEqual(text(handle))
    expect(answers.slice(1).map(({ id }) => id)).toEqual(Array.from({ length: 2052 }, (_, index) => index + 1))
    for (const { id, type, body } of answers.slice(2, -3)) {
      expect(type).toBe(DATA)
      expect(body.subarray(4)).toEqual(Buffer.alloc(32, (id - 2) >> 3))
    }
    expect(answers.slice(-3).map(statusOf)).toEqual([1, 0, 2])
  })

  it('has bounds: of handles, of reads and of packets', async () => {
    const { at } = arena()
    await writeFile(at('bounds'), Buffer.alloc(1 << 20, 'b'))
    const opens = Array.from({ length: 257 }, (_, id) => packet(OPEN, id, text('bounds'), u32(1), u32(0)))
    const handle = Buffer.alloc(8)
    handle.writeUInt32LE(1, 4)
    const { answers } = await serve(
      Buffer.concat([INIT, ...opens, packet(READ, 300, text(handle), u64(0), u32(0xffff_ffff))]),
    )
    expect(answers.slice(1, 257).every(({ type }) => type === HANDLE)).toBe(true)
    expect(statusOf(answers[257])).toBe(4)
    expect(answers[258]?.body.readUInt32BE(0)).toBe(256 * 1024 - 1024)
    for (const bad of [u32(0), u32(256 * 1024 + 1), u32(0xffff_ffff), packet(1, 3), Buffer.from([0, 0, 0, 1, 3])])
      expect((await serve(Buffer.concat([INIT, bad, packet(LSTAT, 1, text('.'))]))).answers).toHaveLength(1)
    expect(await serve(packet(LSTAT, 1, text('.')))).toEqual({ code: 1, answers: [] })
  })

  it('refuses what is no request, and goes on', async () => {
    const { at, sh } = arena()
    await sh('mkfifo sftp-fifo')
    await mkdir(at('full'))
    await writeFile(at('full/target'), 'target')
    await writeFile(at('full/source'), 'source')
    const long = text('n'.repeat(5000))
    const requests = [
      packet(99, 1),
      packet(LSTAT, 2),
      packet(LSTAT, 3, u32(100), Buffer.from('short')),
      packet(LSTAT, 4, text('a\0b')),
      packet(LSTAT, 5, long),
      packet(READ, 6, text('12345678'), u64(0), u32(1)),
      packet(READDIR, 7, text('')),
      packet(OPEN, 8, text('sftp-fifo'), u32(1), u32(0)),
      packet(OPEN, 9, text('full'), u32(1), u32(0)),
      packet(OPENDIR, 10, text('none')),
      packet(EXTENDED, 11, text('unknown@example.org')),
      packet(RENAME, 12, text('full/source'), text('full/target')),
      packet(WRITE, 13, text('12345678'), u64(2 ** 53), text('x')),
      packet(EXTENDED, 14, text('posix-rename@openssh.com'), text('full/source'), text('full/target')),
      packet(LSTAT, 15, text('')),
    ]
    const { code, answers } = await serve(Buffer.concat([INIT, ...requests]))
    expect(code).toBe(0)
    expect(answers.slice(1, -1).map(statusOf)).toEqual([8, 5, 5, 5, 5, 2, 2, 4, 4, 2, 8, 4, 2, 0])
    expect(answers.at(-1)?.type).toBe(105)
    expect(await readFile(at('full/target'), 'utf8')).toBe('source')
  })

  it('lists large directories in parts, names of any bytes among them', async () => {
    const { at, sh } = arena()
    await sh('mkdir large; cd large; for i in $(seq 1000); do > $i; done')
    await writeFile(Buffer.concat([Buffer.from(`${at('large')}/`), Buffer.alloc(255, 0xff)]), '')
    const handle = Buffer.alloc(8)
    handle.writeUInt32LE(1, 4)
    const reads = Array.from({ length: 12 }, (_, id) => packet(READDIR, id + 2, text(handle)))
    const { answers } = await serve(Buffer.concat([INIT, packet(OPENDIR, 1, text('large')), ...reads]))
    const names = answers.slice(2).filter(({ type }) => type === NAME)
    expect(names.reduce((sum, { body }) => sum + body.readUInt32BE(0), 0)).toBe(1003)
    expect(names.some(({ body }) => body.includes(Buffer.alloc(255, 0xff)))).toBe(true)
    expect(statusOf(answers.at(-1))).toBe(1)
  })

  it('has the extensions that it names', async () => {
    const { at } = arena()
    await writeFile(at('ext'), 'ext')
    await symlink('ext', at('ext-link'))
    const { answers } = await serve(
      Buffer.concat([
        INIT,
        packet(EXTENDED, 1, text('hardlink@openssh.com'), text('ext'), text('ext-hard')),
        packet(EXTENDED, 2, text('statvfs@openssh.com'), text('ext')),
        packet(EXTENDED, 3, text('limits@openssh.com')),
        packet(EXTENDED, 4, text('expand-path@openssh.com'), text('~/x/..')),
        packet(EXTENDED, 5, text('expand-path@openssh.com'), text('/./tmp/../etc')),
        packet(EXTENDED, 6, text('lsetstat@openssh.com'), text('ext-link'), u32(8), u32(1), u32(1_500_000_000)),
      ]),
    )
    const offered = answers[0]?.body.toString('latin1') ?? ''
    for (const name of [
      'posix-rename',
      'statvfs',
      'fstatvfs',
      'hardlink',
      'fsync',
      'lsetstat',
      'limits',
      'expand-path',
    ])
      expect(offered).toContain(`${name}@openssh.com`)
    expect(statusOf(answers[1])).toBe(0)
    expect((await stat(at('ext-hard'))).nlink).toBe(2)
    expect(answers[2]?.body.length).toBe(88)
    expect(answers[3]?.body.readUInt32BE(4)).toBe(256 * 1024)
    expect(statusOf(answers[4])).toBe(2)
    expect(answers[5]?.body.toString('latin1', 8, 12)).toBe('/etc')
    expect((await lstat(at('ext-link'))).mtimeMs).toBe(1_500_000_000_000)
    expect((await stat(at('ext'))).mtimeMs).not.toBe(1_500_000_000_000)
  })
})
