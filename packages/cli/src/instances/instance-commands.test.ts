import { spawnSync } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Bramble, type Instance } from '@bramble/sdk'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { inTerminal } from '../../test/in-terminal.ts'
import { type InstanceNode, openInstanceNode } from '../../test/instance-node.ts'
import { runCli, spawnCli } from '../../test/spawn-cli.ts'

const opened = await openInstanceNode()
const skip = 'skip' in opened ? `: ${opened.skip}` : ''
const hasPython = spawnSync('python3', ['--version']).status === 0

describe.skipIf(skip !== '')(`commands for instances${skip}`, () => {
  const node = opened as InstanceNode
  let env: Record<string, string>
  let bramble: Bramble
  let box: Instance
  let directory: string

  beforeAll(async () => {
    env = { BRAMBLE_DATA_DIR: node.dataDirectory }
    bramble = new Bramble({ url: node.url, apiKey: node.key })
    box = await bramble.instances.start({ name: 'box', memoryMb: 128 })
    directory = await mkdtemp(join(tmpdir(), 'bramble-cli-files-'))
  })
  afterAll(async () => {
    await node[Symbol.asyncDispose]()
    await rm(directory, { recursive: true, force: true })
  })

  const cli = (args: string[], stdin?: string) => runCli(args, env, stdin)

  test('start, ps, pause, resume, stop, start again, extend and rm are a life', async () => {
    const made = await cli(['start', 'base', '--name', 'lab', '--memory', '64m', '--idle-ttl', '30m', '-l', 'a=b'])
    expect(made).toMatchObject({ code: 0, stdout: expect.stringMatching(/^ins_[0-9a-z]{26}\n$/) })
    const id = made.stdout.trim()
    const prefix = id.slice(0, 24)
    expect(await cli(['start', 'lab'])).toMatchObject({
      code: 0,
      stdout: `${id}\n`,
      stderr: expect.stringContaining('as it did'),
    })
    expect(await cli(['pause', prefix])).toEqual({ code: 0, stdout: `${prefix}\n`, stderr: '' })
    expect(await cli(['pause', 'lab'])).toEqual({ code: 0, stdout: 'lab\n', stderr: 'lab is paused already\n' })
    const listed = JSON.parse((await cli(['ps', '--label', 'a=b'])).stdout)
    expect(listed).toMatchObject([{ kind: 'instance', id, name: 'lab', status: 'paused', idleTtlMs: 1_800_000 }])
    expect(await cli(['start', 'lab'])).toMatchObject({ code: 0, stdout: `${id}\n` })
    expect(await cli(['resume', 'lab'])).toEqual({ code: 0, stdout: 'lab\n', stderr: 'lab is running already\n' })
    const refused = await cli(['rm', 'lab'])
    expect(refused).toMatchObject({ code: 125, stdout: '' })
    expect(refused.stderr).toContain('--force')
    expect((await cli(['stop', 'lab'])).code).toBe(0)
    expect(await cli(['stop', 'lab'])).toEqual({ code: 0, stdout: 'lab\n', stderr: 'lab is stopped already\n' })
    expect(JSON.parse((await cli(['ps', '--instances', '--label', 'a'])).stdout)).toEqual([])
    expect(JSON.parse((await cli(['ps', '--all', '--instances', '--label', 'a'])).stdout)).toHaveLength(1)
    expect((await cli(['exec', 'lab', 'true'])).stderr).toContain('bramble start')
    expect(await cli(['start', 'lab'])).toMatchObject({ code: 0, stdout: `${id}\n` })
    expect((await cli(['extend', 'lab', '--ttl', '1h'])).code).toBe(0)
    expect(Date.parse((await bramble.instances.get('lab')).info.expiresAt ?? '')).toBeGreaterThan(Date.now())
    expect((await cli(['extend', 'lab', '--ttl', 'never'])).code).toBe(0)
    expect(await cli(['rm', '-f', 'lab', 'nobody'])).toMatchObject({ code: 125, stdout: 'lab\n' })
    await expect(bramble.instances.get('lab')).rejects.toMatchObject({ code: 'not_found' })
  })

  test.each([
    [['exec', 'nobody', 'true'], 'there is no instance "nobody"'],
    [['exec', 'No Body', 'true'], 'neither the id nor the name'],
    [['exec', 'ins_000', 'true'], "no instance's id begins with"],
    [['start', '--volume', 'x', 'base'], 'NAME:/PATH'],
    [['start', '--network', 'moon'], 'network'],
    [['start', 'no-such-image'], 'no-such-image'],
    [['cp', 'a', 'b'], 'neither end is in an instance'],
    [['cp', '/no/such/file', 'box:/x'], '/no/such/file'],
    [['cp', 'box:/no/such/file', '.'], 'no such file in the sandbox'],
    [['ports', 'box', '-L', 'x'], 'REMOTE'],
    [['expose', 'box', '70000'], 'Not a port'],
    [['exec', '-t', 'box', 'sh'], '--tty needs a terminal'],
  ])('%j is refused with 125 and says why', async (args, reason) => {
    const end = await cli(args)
    expect(end).toMatchObject({ code: 125, stdout: '' })
    expect(end.stderr).toContain(reason)
    expect(end.stderr).not.toContain('    at ')
  })

  describe('exec', () => {
    test('passes both streams as they are, and ends with the exit code of the command', async () => {
      const end = await cli(['exec', '--no-input', 'box', '--', 'sh', '-c', 'printf "a\\377b"; echo warn >&2; exit 7'])
      expect(end).toEqual({ code: 7, stdout: 'a\xffb', stderr: 'warn\n' })
      expect(await cli(['exec', 'box', 'echo one; echo two'])).toMatchObject({ code: 0, stdout: 'one\ntwo\n' })
    })

    test('gives what is piped to the command, and its environment, user and directory', async () => {
      const args = ['-e', 'NAME=va lue', '-w', '/tmp', '-u', '1:1']
      const end = await cli(
        ['exec', ...args, 'box', '--', 'sh', '-c', 'cat; echo "$NAME $PWD $(id -u)"; exit 3'],
        'typed\n',
      )
      expect(end).toEqual({ code: 3, stdout: 'typed\nva lue /tmp 1\n', stderr: '' })
    })

    test.each([[['--no-input']], [[]]])('a command that is not there is 127, with %j', async (flags) => {
      const end = await cli(['exec', ...flags, 'box', '--', 'no-such-program'])
      expect(end).toMatchObject({ code: 127, stdout: '' })
      expect(end.stderr).toMatch(/^bramble: [^\n]+\n$/)
    })

    test.each([[['--no-input']], [['-i']]])('Ctrl-C ends the command, with %j', async (flags) => {
      const running = spawnCli(['exec', ...flags, 'box', 'echo $$; exec sleep 1000'], env)
      await running.printed('\n')
      running.child.kill('SIGINT')
      const { code, stdout } = await running.ended
      expect(code).toBe(130)
      while ((await box.exec(`kill -0 ${stdout.trim()}`)).exitCode === 0);
    })

    test('one that runs too long ends with 124', async () => {
      for (const flag of ['--no-input', '-i']) {
        const end = await cli(['exec', flag, '--timeout', '50ms', 'box', 'sleep 1000'])
        expect(end.code).toBe(124)
        expect(end.stderr).toContain('--timeout')
      }
    })

    test('a reader that goes away ends it', async () => {
      const running = spawnCli(['exec', 'box', 'while true; do echo y; done'], env)
      await running.printed('y\n')
      running.child.stdout?.destroy()
      expect((await running.ended).code).toBe(141)
    })
  })

  describe('cp', () => {
    test('carries files and trees both ways, and between instances', async () => {
      const tree = join(directory, 'tree')
      await mkdir(join(tree, 'sub'), { recursive: true })
      await writeFile(join(tree, 'sub', 'x'), 'inner')
      await writeFile(join(tree, 'run'), 'echo ran', { mode: 0o755 })
      expect(await cli(['cp', tree, 'box:/app'])).toEqual({ code: 0, stdout: '', stderr: '' })
      expect(await box.exec('cat /app/sub/x; sh /app/run').text()).toBe('innerran\n')
      expect((await cli(['cp', join(tree, 'run'), 'box:/app/sub'])).code).toBe(0)
      expect(await box.files.stat('/app/sub/run')).toMatchObject({ mode: 0o755 })
      expect((await cli(['cp', 'box:/app', join(directory, 'back')])).code).toBe(0)
      expect(await readFile(join(directory, 'back/sub/run'), 'utf8')).toBe('echo ran')
      expect((await cli(['cp', 'box:/app/run', directory])).code).toBe(0)
      expect((await stat(join(directory, 'run'))).mode & 0o777).toBe(0o755)
      await using other = await bramble.instances.start({ name: 'other' })
      expect((await cli(['cp', 'box:/app', 'other:/copied'])).code).toBe(0)
      expect(await other.files.readText('/copied/sub/x')).toBe('inner')
    })

    test('reads and writes standard streams', async () => {
      expect((await cli(['cp', '-', 'box:/tmp/in'], 'through a pipe')).code).toBe(0)
      expect(await cli(['cp', 'box:/tmp/in', '-'])).toEqual({ code: 0, stdout: 'through a pipe', stderr: '' })
      await box.files.write('/packed/file', 'x')
      const archive = Buffer.from((await cli(['cp', 'box:/packed', '-'])).stdout, 'latin1')
      expect(archive.subarray(257, 262).toString()).toBe('ustar')
    })
  })

  test('ports are listed, exposed and forwarded', async () => {
    await box.files.write('/www/index.html', 'hello from inside')
    await using stream = await box.stream({ processes: false })
    await using _server = await stream.exec(['httpd', '-f', '-p', '8090', '-h', '/www'])
    const listening = async () => JSON.parse((await cli(['ports', 'box'])).stdout).items as { port: number }[]
    while (!(await listening()).some(({ port }) => port === 8090));
    const exposed = await cli(['expose', 'box', '8090', '--public'])
    expect(await (await fetch(exposed.stdout.trim())).text()).toBe('hello from inside')
    expect((await cli(['expose', 'box', '8090', '--remove'])).code).toBe(0)
    const forwarding = spawnCli(['ports', 'box', '-L', '0:8090'], env)
    await forwarding.printed('-> box:8090')
    const [, port] = /^127\.0\.0\.1:(\d+)/.exec(forwarding.text()) ?? []
    expect(await (await fetch(`http://127.0.0.1:${port}/`)).text()).toBe('hello from inside')
    forwarding.child.kill('SIGINT')
    expect((await forwarding.ended).code).toBe(0)
  })

  test('logs tell what is kept, and follow', async () => {
    await using quiet = await bramble.instances.start({ name: 'quiet' })
    expect(await cli(['logs', 'quiet'])).toEqual({ code: 0, stdout: '', stderr: '' })
    await using stream = await quiet.stream()
    await (await stream.exec('echo kept; echo err >&2')).wait()
    expect(await cli(['logs', 'quiet'])).toMatchObject({ code: 0, stdout: 'kept\n', stderr: 'err\n' })
    const following = spawnCli(['logs', '-f', 'quiet'], env)
    await following.printed('kept')
    await (await stream.exec('echo later')).wait()
    await following.printed('later')
    following.child.kill('SIGINT')
    const end = await following.ended
    expect(end.code).toBe(130)
    expect(end.stderr).toContain('ended with 0')
    const json = (await cli(['logs', '--json', 'quiet'])).stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(json).toEqual(expect.arrayContaining([expect.objectContaining({ type: 'stdout', data: 'later\n' })]))
  })

  test('volumes outlive the instances they are mounted in', async () => {
    expect(await cli(['volumes', 'create', 'data', '--size', '64m'])).toMatchObject({ code: 0, stdout: 'data\n' })
    await using first = await bramble.instances.start({ volumes: [{ name: 'data', path: '/data' }] })
    await first.files.write('/data/x', 'kept')
    await first.delete()
    expect((await cli(['start', '--name', 'second', '--volume', 'data:/data:ro'])).code).toBe(0)
    const end = await cli(['exec', '--no-input', 'second', 'cat /data/x; touch /data/y'])
    expect(end).toMatchObject({ code: 1, stdout: 'kept' })
    expect((await cli(['volumes', 'rm', 'data'])).code).toBe(125)
    const [row] = JSON.parse((await cli(['volumes'])).stdout)
    expect(row).toMatchObject({ name: 'data', kind: 'volume', sizeMb: 64, usedBy: [expect.stringContaining('ins_')] })
    expect((await cli(['rm', '-f', 'second'])).code).toBe(0)
    expect((await cli(['volumes', 'rm', 'data'])).code).toBe(0)
    expect((await cli(['volumes', 'clear', 'npm'])).stderr).toContain('npm')
  })

  test('SSH keys are added, listed and removed; a private one is not read out', async () => {
    const file = join(directory, 'key')
    const pair = generateKeyPairSync('ed25519')
    const raw = pair.publicKey.export({ type: 'spki', format: 'der' }).subarray(-32)
    const part = (bytes: Buffer) => Buffer.concat([Buffer.from([0, 0, 0, bytes.length]), bytes])
    const blob = Buffer.concat([part(Buffer.from('ssh-ed25519')), part(raw)])
    await writeFile(`${file}.pub`, `ssh-ed25519 ${blob.toString('base64')} me@here\n`)
    await writeFile(file, pair.privateKey.export({ type: 'pkcs8', format: 'pem' }))
    const added = await cli(['ssh-keys', 'add', `${file}.pub`])
    expect(added).toMatchObject({ code: 0, stdout: expect.stringMatching(/^ssh_\w+\n$/) })
    const refused = await cli(['ssh-keys', 'add', file])
    expect(refused.stderr).toContain('private key')
    const listed = JSON.parse((await cli(['ssh-keys'])).stdout)
    expect(listed).toMatchObject([{ name: 'me@here', type: 'ssh-ed25519' }])
    expect((await cli(['ssh-keys', 'rm', added.stdout.trim()])).code).toBe(0)
    expect(JSON.parse((await cli(['ssh-keys'])).stdout)).toEqual([])
  })

  test('top looks once in a pipe', async () => {
    const rows = JSON.parse((await cli(['top', '--interval', '50ms'])).stdout)
    expect(rows).toContainEqual(expect.objectContaining({ name: 'box', cpuPercent: expect.any(Number), memoryMb: 128 }))
  })

  test('shell runs a script from a pipe, in a new instance that is gone afterwards', async () => {
    expect(await cli(['shell', 'box'], 'echo from $FROM; exit 4\n')).toMatchObject({ code: 4, stdout: 'from\n' })
    const before = await bramble.instances.list().all()
    expect(await cli(['shell', '--image', 'base', '-e', 'FROM=new'], 'echo from $FROM\n')).toMatchObject({
      code: 0,
      stdout: 'from new\n',
    })
    expect((await bramble.instances.list().all()).map(({ id }) => id)).toEqual(before.map(({ id }) => id))
  })

  describe.skipIf(!hasPython)(`on a terminal${hasPython ? '' : ': this host has no python3'}`, () => {
    test('shell is one: it echoes, has its size, changes it, and the terminal is as it was afterwards', async () => {
      const session = inTerminal(['shell', 'box'], env)
      session.type('stty size\r')
      await session.shows('30 100')
      session.type('\x00\x78\x28')
      session.type('until [ "$(stty size)" = "40 120" ]; do true; done; echo re""sized\r')
      await session.shows('resized')
      session.type('sh -c \'trap "echo cau\\"\\"ght; exit" INT; echo wai""ts; while true; do sleep 0.1; done\'\r')
      await session.shows('waits')
      session.type('\x03')
      await session.shows('caught')
      session.type('echo $((6 * 7))\r')
      await session.shows('42')
      session.type('exit 9\r')
      const { code, screen } = await session.ended
      expect(code).toBe(9)
      expect(screen).toMatch(/<cooked>$/)
      // What the shell in there wrote, byte for byte.
      expect(screen).not.toContain('\r\r\n')
    })

    test('exec -t runs a command on one', async () => {
      const session = inTerminal(
        ['exec', '-t', '-e', "Q=it's", 'box', '--', 'sh', '-c', 'tty; echo "$Q"; read x; exit 8'],
        env,
      )
      await session.shows('/dev/pts/')
      await session.shows("it's")
      session.type('x\r')
      expect(await session.ended).toMatchObject({ code: 8, screen: expect.stringMatching(/<cooked>$/) })
    })

    test('an instance that goes away ends it, and the terminal is as it was', async () => {
      await using gone = await bramble.instances.start({ name: 'gone' })
      const session = inTerminal(['shell', 'gone'], env)
      session.type('echo rea""dy\r')
      await session.shows('ready')
      await gone.delete()
      const { code, screen } = await session.ended
      expect(code).toBe(125)
      expect(screen).toMatch(/bramble:[\s\S]*the instance is deleted[\s\S]*<cooked>$/)
    })

    test('ps is a table, and top a live one that q ends', async () => {
      const table = await inTerminal(['ps'], env).ended
      expect(table.screen).toMatch(/ID[\s\S]*NAME[\s\S]*STATUS[\s\S]*box[\s\S]*running/)
      const top = inTerminal(['top', '--interval', '50ms'], env)
      await top.shows('INSTANCE')
      await top.shows('%')
      top.type('q')
      const { code, screen } = await top.ended
      expect([code, screen.endsWith('\x1b[?25h\x1b[?1049l<cooked>')]).toEqual([0, true])
    })

    test('a large copy shows how far it is', async () => {
      const big = join(directory, 'big')
      await writeFile(big, Buffer.alloc(200_000_000))
      const { code, screen } = await inTerminal(['cp', big, 'box:/tmp/big'], env).ended
      expect(code).toBe(0)
      expect(screen).toContain('%')
      expect((await box.files.stat('/tmp/big')).sizeBytes).toBe(200_000_000)
      await box.files.remove('/tmp/big')
    })
  })
})
