import { execFile, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chmod, readFile, stat, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { importHostPrograms, openRealNode, type RealNode } from '../../test/real-node.ts'
import { closedPort } from '../ports/testing/open-test-proxy.ts'
import { type KeyType, type OpenSsh, openSsh } from './testing/open-ssh.ts'

const sha = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex')

describe('an instance by OpenSSH', { timeout: 60_000 }, () => {
  let node: RealNode
  let skip: string | undefined
  beforeAll(async () => {
    const opened = await openRealNode({ sshPort: 0 })
    if ('skip' in opened) skip = opened.skip
    else {
      node = opened
      await node.start({ name: 'box' })
    }
  }, 60_000)
  beforeEach(({ skip: skipTest }) => {
    if (skip !== undefined) skipTest(skip)
  })
  afterAll(() => node?.[Symbol.asyncDispose]())

  const sshPort = (): number => node.gateway.sshPort ?? 0
  /** A client whose key the tenant of `key` has. */
  const client = async (type?: KeyType, key?: string): Promise<OpenSsh> => {
    const made = await openSsh(sshPort(), type)
    const json = { name: type ?? 'key', publicKey: made.publicKey }
    const response = await node.fetch('/api/v1/ssh-keys', { json, ...(key !== undefined && { key }) })
    expect(response.status).toBe(201)
    return made
  }
  const TO = 'box@127.0.0.1'

  it.each<KeyType>(['ed25519', 'ecdsa', 'rsa'])('lets in by a key of type %s', async (type) => {
    const { ssh } = await client(type)
    expect(await ssh([TO, 'echo out; echo err >&2; exit 7'])).toMatchObject({
      code: 7,
      stdout: Buffer.from('out\n'),
      stderr: 'err\n',
    })
  })

  it('lets in by an API key as the password, and by the id of the instance', async () => {
    const { options, folder, tool } = await openSsh(sshPort())
    const ask = join(folder, 'ask')
    const { id } = (await (await node.fetch('/api/v1/instances/box')).json()) as { id: string }
    const login = async (key: string, to: string) => {
      await writeFile(ask, `#!/bin/sh\necho ${key}\n`)
      await chmod(ask, 0o700)
      const args = [...options, '-o', 'PubkeyAuthentication=no', to, 'echo in']
      return (await tool('ssh', args, undefined, { SSH_ASKPASS: ask })).stdout.toString()
    }
    expect(await login(node.key, TO)).toBe('in\n')
    expect(await login(node.key, `${id}@127.0.0.1`)).toBe('in\n')
    expect(await login(`${node.key}x`, TO)).toBe('')
    const reader = await node.newKey({ scopes: ['read'] })
    expect(await login(reader.key, TO)).toBe('')
  })

  it('looks the same to a wrong key, a key of another tenant and where there is no instance', async () => {
    const other = await node.newKey({ tenant: 'other' })
    const [stranger, ofOther, own] = [await openSsh(sshPort()), await client('ed25519', other.key), await client()]
    const refused = await Promise.all([
      stranger.ssh([TO, 'id']),
      ofOther.ssh([TO, 'id']),
      own.ssh(['none@127.0.0.1', 'id']),
      own.ssh(['../box@127.0.0.1', 'id']),
    ])
    for (const { code, stderr } of refused) {
      expect(code).toBe(255)
      expect(stderr).toMatch(/@127\.0\.0\.1: Permission denied \(publickey,password\)\.\s*$/)
    }
  })

  it('keeps names of tenants apart', async () => {
    const other = await node.newKey({ tenant: 'other' })
    await node.start({ name: 'box' }, other.key)
    const [theirs, ours] = [await client('ed25519', other.key), await client()]
    await ours.ssh([TO, 'echo ours > /root/whose'])
    expect((await theirs.ssh([TO, 'echo theirs > /root/whose; cat /root/whose'])).stdout.toString()).toBe('theirs\n')
    expect((await ours.ssh([TO, 'cat /root/whose'])).stdout.toString()).toBe('ours\n')
  })

  it('carries 200 MB each way unchanged', async () => {
    const { ssh } = await client()
    const data = Buffer.alloc(200_000_000, randomBytes(9973))
    expect((await ssh([TO, 'cat > /tmp/big; sha256sum < /tmp/big'], data)).stdout.toString()).toContain(sha(data))
    expect(sha((await ssh([TO, 'cat /tmp/big; rm /tmp/big'])).stdout)).toBe(sha(data))
  })

  it('keeps both outputs apart and whole, whoever waits', async () => {
    const { ssh } = await client()
    const { stdout, stderr } = await ssh([
      TO,
      'i=0; while [ $i -lt 60000 ]; do echo out$i; echo err$i >&2; i=$((i+1)); done',
    ])
    const lines = (word: string): string => Array.from({ length: 60_000 }, (_, i) => `${word}${i}\n`).join('')
    expect(sha(stdout)).toBe(sha(Buffer.from(lines('out'))))
    expect(sha(Buffer.from(stderr))).toBe(sha(Buffer.from(lines('err'))))
  })

  it('says how a command ended', async () => {
    const { ssh } = await client()
    expect((await ssh([TO, 'exit 3'])).code).toBe(3)
    expect((await ssh(['-v', TO, 'kill -TERM $$'])).code).toBe(255)
    expect((await ssh([TO, '/none'])).code).toBe(127)
    const { code, stdout } = await ssh([TO, 'cat; echo end'], Buffer.from('of input, '))
    expect([code, stdout.toString()]).toEqual([0, 'of input, end\n'])
  })

  it('passes on the environment that it should, and nothing else', async () => {
    const { tool, options } = await client()
    const args = [...options, '-o', 'SendEnv=LC_X GIT_PROTOCOL SECRET', TO, 'env']
    const { stdout } = await tool('ssh', args, undefined, { LC_X: '1', GIT_PROTOCOL: 'version=2', SECRET: 'x' })
    expect(stdout.toString()).toContain('LC_X=1\n')
    expect(stdout.toString()).toContain('GIT_PROTOCOL=version=2\n')
    expect(stdout.toString()).not.toContain('SECRET')
  })

  it('has terminals with job control, whose size can change', async () => {
    const { folder, options } = await client()
    const python = `
import os, pty, sys, select, fcntl, termios, struct, signal
pid, fd = pty.fork()
if pid == 0: os.execvp('ssh', ['ssh', *sys.argv[1:]])
seen = b''
def until(text):
    global seen
    while text not in seen:
        data = os.read(fd, 4096)
        if not data: sys.exit('ended: ' + repr(seen))
        seen += data
    seen = seen.split(text, 1)[1]
def size(rows, cols):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, cols, 0, 0)); os.kill(pid, signal.SIGWINCH)
until(b'# ')
size(40, 100)
os.write(fd, b'stty size; echo "$TERM" gr\\xc3\\xbcn | cat\\r'); until(b'40 100'); until(b'vt220 gr\\xc3\\xbcn')
os.write(fd, b'echo be""gun; sleep 1000\\r'); until(b'begun'); os.write(fd, b'\\x03'); until(b'# ')
os.write(fd, b'echo code=$?\\r'); until(b'code=130')
os.write(fd, b'exit 5\\r')
try:
    while os.read(fd, 4096): pass
except OSError: pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`
    const script = join(folder, 'terminal.py')
    await writeFile(script, python)
    const env = { PATH: process.env.PATH, TERM: 'vt220' }
    const ran = promisify(execFile)('python3', [script, ...options, TO], { env, timeout: 30_000 })
    await expect(ran).rejects.toMatchObject({ code: 5, stderr: '' })
  })

  it('serves scp and sftp in an image that has neither', async () => {
    const { folder, options, tool, ssh } = await client()
    const data = randomBytes(3_000_000)
    await writeFile(join(folder, 'file'), data)
    expect(await tool('scp', ['-q', ...options, join(folder, 'file'), `${TO}:/tmp/file`])).toMatchObject({ code: 0 })
    expect((await ssh([TO, 'sha256sum /tmp/file'])).stdout.toString()).toContain(sha(data))
    expect(await tool('scp', ['-q', ...options, `${TO}:/tmp/file`, join(folder, 'back')])).toMatchObject({ code: 0 })
    expect(sha(await readFile(join(folder, 'back')))).toBe(sha(data))
    const batch = `mkdir /tmp/d\nput ${join(folder, 'file')} /tmp/d/a\nrename /tmp/d/a /tmp/d/b\nls -1 /tmp/d\nrm /tmp/d/b\n`
    const sftp = await tool('sftp', ['-q', ...options, '-b', '-', TO], Buffer.from(batch))
    expect([sftp.code, sftp.stdout.toString()]).toEqual([0, expect.stringContaining('/tmp/d/b')])
  })

  it('forwards connections with -L, to a socket too, and with -D; nothing comes back by -R or an agent', async () => {
    const { options, ssh } = await client()
    await ssh([TO, 'mkdir -p /www; echo page > /www/index.html; httpd -p 8000 -h /www'])
    const [local, socks] = [await closedPort(), await closedPort()]
    const forward = ['-v', '-N', '-L', `${local}:localhost:8000`, '-D', String(socks)]
    const tunnel = spawn('ssh', [...options, '-o', 'LogLevel=VERBOSE', ...forward, TO], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    onTestFinished(() => void tunnel.kill('SIGKILL'))
    for await (const line of createInterface({ input: tunnel.stderr })) if (/Entering interactive/.test(line)) break
    tunnel.stderr.resume()
    const curl = (args: readonly string[]) => promisify(execFile)('curl', ['-sS', '-m', '20', ...args])
    expect((await curl([`http://127.0.0.1:${local}/`])).stdout).toBe('page\n')
    const bySocks = ['--socks5-hostname', `127.0.0.1:${socks}`]
    expect((await curl([...bySocks, 'http://localhost:8000/'])).stdout).toBe('page\n')
    await expect(curl([...bySocks, 'http://localhost:9/'])).rejects.toThrow()
    const back = await ssh(['-o', 'ExitOnForwardFailure=yes', '-R', '0:localhost:9', TO, 'true'])
    expect([back.code, back.stderr]).toEqual([255, expect.stringContaining('remote port forwarding failed')])
    expect((await ssh(['-A', TO, 'echo "[$SSH_AUTH_SOCK]"'])).stdout.toString()).toBe('[]\n')
  })

  it('serves many sessions over one connection', async () => {
    const { folder, options, ssh } = await client()
    const shared = ['-S', join(folder, 'control')]
    const master = spawn('ssh', [...options, ...shared, '-M', '-N', TO])
    onTestFinished(() => void master.kill('SIGKILL'))
    await vi.waitFor(async () => expect((await ssh([...shared, '-O', 'check', TO])).code).toBe(0), { timeout: 20_000 })
    const ran = await Promise.all([...Array(12).keys()].map((i) => ssh([...shared, TO, `echo ${i}; exit ${i}`])))
    expect(ran.map(({ code, stdout }) => [code, stdout.toString()])).toEqual(ran.map((_, i) => [i, `${i}\n`]))
  })

  it('takes a git push', async ({ skip: skipTest }) => {
    const git = await promisify(execFile)('git', ['--exec-path']).catch(() => undefined)
    if (!git) return skipTest('this host has no git')
    await importHostPrograms(node, 'with-git', ['/usr/bin/git'])
    await node.start({ name: 'forge', image: 'with-git' })
    const links = 'for name in git-receive-pack git-upload-pack; do ln -sf git /usr/bin/$name; done'
    await node.sh('forge', `${links}; git init -q --bare -b main /root/repo.git`)
    const { folder, options, tool } = await client()
    const env = {
      HOME: folder,
      GIT_CONFIG_NOSYSTEM: '1',
      GIT_SSH_COMMAND: ['ssh', ...options].join(' '),
      GIT_AUTHOR_NAME: 'a',
      GIT_AUTHOR_EMAIL: 'a@example.org',
      GIT_COMMITTER_NAME: 'a',
      GIT_COMMITTER_EMAIL: 'a@example.org',
    }
    const work = join(folder, 'work')
    const run = async (...args: string[]) => {
      const { code, stderr } = await tool('git', args, undefined, env)
      expect([code, code === 0 ? '' : stderr]).toEqual([0, ''])
    }
    await run('init', '-q', '-b', 'main', work)
    await writeFile(join(work, 'file'), randomBytes(500_000))
    await run('-C', work, 'add', '.')
    await run('-C', work, 'commit', '-q', '-m', 'one')
    await run('-C', work, 'push', '-q', 'ssh://forge@127.0.0.1/root/repo.git', 'main')
    await run('clone', '-q', 'ssh://forge@127.0.0.1/root/repo.git', join(folder, 'clone'))
    expect(await readFile(join(folder, 'clone/file'))).toEqual(await readFile(join(work, 'file')))
  })

  it('kills what a client left behind', async () => {
    const { options } = await client()
    const left = spawn('ssh', [...options, TO, 'echo begun; exec sleep 31415'])
    await once(left.stdout, 'data')
    left.kill('SIGKILL')
    await vi.waitFor(async () => expect(await node.sh('box', 'ps | grep -c "[s]leep 31415" || true')).toBe('0\n'), {
      timeout: 20_000,
      interval: 100,
    })
  })

  it('ends with the instance, and says why; a stopped one says so too', async () => {
    await node.start({ name: 'brief' })
    const { options, ssh } = await client()
    const long = spawn('ssh', [...options, 'brief@127.0.0.1', 'echo begun; sleep 1000'])
    onTestFinished(() => void long.kill('SIGKILL'))
    let said = ''
    long.stderr.on('data', (data) => {
      said += data
    })
    await once(long.stdout, 'data')
    const closed = once(long, 'close')
    await node.fetch('/api/v1/instances/brief/stop', { method: 'POST' })
    const [code] = await closed
    expect(code).toBe(255)
    expect(said).toMatch(/bramble: the instance is stop(ping|ped)/)
    const after = await ssh(['brief@127.0.0.1', 'true'])
    expect([after.code, after.stderr]).toEqual([255, expect.stringMatching(/bramble: .*stopped/)])
  })

  it('resumes a paused instance', async () => {
    await node.start({ name: 'sleepy' })
    await node.fetch('/api/v1/instances/sleepy/pause', { method: 'POST' })
    const { ssh } = await client()
    expect((await ssh(['sleepy@127.0.0.1', 'echo awake'])).stdout.toString()).toBe('awake\n')
  })

  it('knows a key no more once it is deleted', async () => {
    const { ssh, publicKey } = await client()
    expect((await ssh([TO, 'true'])).code).toBe(0)
    const text = publicKey.split(' ')[1]
    const { items } = (await (await node.fetch('/api/v1/ssh-keys')).json()) as {
      items: { id: string; fingerprint: string }[]
    }
    const fingerprint = `SHA256:${createHash('sha256')
      .update(Buffer.from(text ?? '', 'base64'))
      .digest('base64')
      .replace('=', '')}`
    const found = items.find((item) => item.fingerprint === fingerprint)
    expect((await node.fetch(`/api/v1/ssh-keys/${found?.id}`, { method: 'DELETE' })).status).toBe(204)
    expect((await ssh([TO, 'true'])).code).toBe(255)
  })

  it('has a host key that only its owner can read', async () => {
    expect((await stat(join(node.directory, 'ssh-host-ed25519.key'))).mode & 0o777).toBe(0o600)
  })

  describe('is not impressed', () => {
    const dial = async (bytes: Uint8Array | string): Promise<void> => {
      const socket = connect(sshPort(), '127.0.0.1')
      socket.on('error', () => {})
      socket.resume()
      socket.write(bytes)
      await once(socket, 'close')
    }
    it('by bytes that are no SSH, before or after the greeting', async () => {
      await Promise.all([
        dial('GET / HTTP/1.1\r\nHost: x\r\n\r\n'),
        dial(randomBytes(100_000)),
        dial(Buffer.concat([Buffer.from('SSH-2.0-x\r\n'), randomBytes(100_000)])),
        dial(Buffer.concat([Buffer.from('SSH-2.0-x\r\n'), Buffer.from([0x7f, 255, 255, 255]), randomBytes(1000)])),
      ])
      const { ssh } = await client()
      expect((await ssh([TO, 'echo well'])).stdout.toString()).toBe('well\n')
    })

    it('by a reader that stops: its command waits', async () => {
      const { options } = await client()
      const slow = spawn('ssh', [...options, TO, 'head -c 300000000 /dev/zero; echo done > /tmp/slow-done'])
      onTestFinished(() => void slow.kill('SIGKILL'))
      await once(slow.stdout, 'readable')
      slow.kill('SIGSTOP')
      const before = process.memoryUsage().rss
      const { ssh } = await client()
      expect((await ssh([TO, 'for i in $(seq 200); do :; done; ls /tmp'])).stdout.toString()).not.toContain('slow-done')
      expect(process.memoryUsage().rss - before).toBeLessThan(100_000_000)
      slow.kill('SIGCONT')
    })
  })
})
