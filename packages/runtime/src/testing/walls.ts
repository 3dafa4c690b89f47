import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { CAPABILITY_BITS, MASKED_PATHS, READONLY_PATHS } from '../sandbox-policy.ts'
import type { OpenArena } from './attacks.ts'
import { attempts, HOSTILE } from './hostile-program.ts'
import { endOf, outputOf, PATH, runCommand } from './run-command.ts'
import { skip } from './subject.ts'
import { hostProcesses } from './unharmed.ts'

const { EPERM, ENOSYS, EAFNOSUPPORT, EACCES, ECONNREFUSED } = constants.errno
/** A refusal, or a kernel that seems not to know the call. EINVAL, EFAULT or EBADF would show that it was let through. */
const REFUSALS = [EPERM, ENOSYS, EAFNOSUPPORT]

const ALLOWED_CAPABILITIES = Object.values(CAPABILITY_BITS).reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n)

/** What a sandbox must not reach, whatever it tries: the host's kernel, files, processes and networks. */
export const testWalls = (arena: OpenArena): void => {
  describe('walls', () => {
    test('dangerous system calls are refused', async (context) => {
      const { subject, open } = await arena(context)
      if (!subject.runtime.capabilities.seccomp) skip(context, 'the driver filters no system calls')
      await using sandbox = await open()
      const ends = await attempts(sandbox, 'calls')
      expect(Object.keys(ends).length).toBeGreaterThan(35)
      const allowed = Object.entries(ends).filter(([, errno]) => !REFUSALS.includes(errno))
      expect(allowed).toEqual([])
      expect(ends.clone3).toBe(ENOSYS)
    })

    test('the same holds for a user without privileges', async (context) => {
      const { subject, open } = await arena(context)
      if (!subject.runtime.capabilities.seccomp) skip(context, 'the driver filters no system calls')
      await using sandbox = await open()
      const script = `${HOSTILE} calls | grep -E '^(unshare|clone|bpf|userfaultfd|io_uring_setup) '`
      const lines = (await outputOf(sandbox, script, { user: 'app' })).trim().split('\n')
      expect(lines.map((line) => Number(line.split(' ')[1])).every((errno) => REFUSALS.includes(errno))).toBe(true)
    })

    test('capabilities are the documented few, no new privileges, filtered system calls', async (context) => {
      const { subject, open } = await arena(context)
      await using sandbox = await open()
      const status = await outputOf(sandbox, ['cat', '/proc/self/status'])
      const field = (name: string) => new RegExp(`^${name}:\\s*(\\S+)$`, 'm').exec(status)?.[1] ?? ''
      for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) {
        const more = BigInt(`0x${field(set)}`) & ~ALLOWED_CAPABILITIES
        expect(`${set} ${more}`).toBe(`${set} 0`)
      }
      expect(field('NoNewPrivs')).toBe('1')
      if (subject.runtime.capabilities.seccomp) expect(field('Seccomp')).toBe('2')
      const [inside, outside] = (await outputOf(sandbox, ['cat', '/proc/self/uid_map'])).trim().split(/\s+/)
      expect(inside).toBe('0')
      if (subject.runtime.capabilities.userNamespace) expect(Number(outside)).toBeGreaterThan(0)
    })

    test('no crash starts a program of the host, which gets its core', async (context) => {
      const { subject, open } = await arena(context)
      if (!subject.runtime.capabilities.seccomp) skip(context, 'the driver filters no system calls')
      await using sandbox = await open()
      // The kernel starts none where the limit is 1 (core(5)); that it cannot be lowered is what this tries.
      const script = 'ulimit -c 0; ulimit -S -c 0; ulimit -n 64; grep -E "core|open files" /proc/self/limits'
      const limits = (await outputOf(sandbox, script)).replace(/ +/g, ' ')
      expect(limits).toBe('Max core file size 1 1 bytes \nMax open files 64 64 files \n')
    })

    test('the agent cannot be traced, read or entered', async (context) => {
      const { open } = await arena(context)
      await using sandbox = await open()
      const ends = await attempts(sandbox, 'trace')
      const reached = Object.entries(ends).filter(([, errno]) => errno !== EPERM && errno !== EACCES)
      expect(reached).toEqual([])
      expect(await endOf(sandbox, ['true'])).toBe(0)
    })

    test('no mount, no device node, no device of the host', async (context) => {
      const { open } = await arena(context)
      await using sandbox = await open()
      const reached = Object.entries(await attempts(sandbox, 'devices')).filter(([, errno]) => errno === 0)
      expect(reached).toEqual([])
      for (const command of [
        'mount -t tmpfs none /mnt',
        'mount -o remount,rw /proc/sys',
        'umount /proc',
        'umount -l /',
      ])
        expect(`${command}: ${await endOf(sandbox, command)}`).not.toBe(`${command}: 0`)
      expect(await outputOf(sandbox, 'find /dev -type b')).toBe('')
    })

    test('files of the kernel that would change the host cannot be written', async (context) => {
      const { open } = await arena(context)
      await using sandbox = await open()
      // Each word is harmless where it were taken: help, and what the value is by default.
      const writes = {
        '/proc/sysrq-trigger': 'h',
        '/proc/sys/kernel/domainname': '(none)',
        '/proc/sys/vm/swappiness': '60',
        '/proc/sys/kernel/core_pattern': 'core',
        '/sys/kernel/uevent_helper': '',
        '/sys/fs/cgroup/cgroup.procs': '1',
        '/sys/fs/cgroup/memory/memory.limit_in_bytes': '-1',
        '/sys/fs/cgroup/memory.max': 'max',
        '/sys/fs/cgroup/release_agent': '/x',
      }
      for (const [path, word] of Object.entries(writes)) {
        const end = await endOf(sandbox, `[ ! -e ${path} ] || ! echo '${word}' > ${path}`)
        expect(`${path}: ${end}`).toBe(`${path}: 0`)
      }
      for (const path of READONLY_PATHS) expect(await endOf(sandbox, `[ ! -e ${path} ] || ! touch ${path}/x`)).toBe(0)
    })

    test('paths that tell about the host are covered', async (context) => {
      const { open } = await arena(context)
      await using sandbox = await open()
      for (const path of MASKED_PATHS) {
        const script = `if [ -d ${path} ]; then ls -A ${path}; else head -c 64 ${path} 2>/dev/null; fi; true`
        expect(`${path}: ${await outputOf(sandbox, script)}`).toBe(`${path}: `)
      }
    })

    test('files of the host are out of reach, by any way round', async (context) => {
      const { open } = await arena(context)
      const directory = await mkdtemp(join(tmpdir(), 'bramble-secret-'))
      const secret = randomUUID()
      const path = join(directory, 'secret')
      await writeFile(path, secret, { mode: 0o644 })
      try {
        await using sandbox = await open()
        const up = '../'.repeat(32)
        const ways = [
          path,
          `/proc/1/root${path}`,
          `/proc/self/root${path}`,
          `/proc/1/cwd/${up}${path}`,
          `/${up}${path}`,
          `/tmp/link${path}`,
          `/tmp/deep${path}`,
        ]
        const links = `ln -s / /tmp/link; ln -s /proc/1/root/${up} /tmp/deep`
        const { stdout } = await runCommand(sandbox, `${links}; for p in ${ways.join(' ')}; do cat $p; done 2>&1`)
        expect(stdout.toString()).not.toContain(secret)
        expect((await runCommand(sandbox, [HOSTILE, 'escape', path])).stdout.toString()).not.toContain(secret)
        for (const way of ways) {
          const got = await runCommand(sandbox, ['/.bramble/agent', 'get', way, '1000'])
          expect(got.stdout.toString()).not.toContain(secret)
        }
      } finally {
        await rm(directory, { recursive: true, force: true })
      }
    })

    test('processes of the host cannot be seen', async (context) => {
      const { open } = await arena(context)
      await using sandbox = await open()
      const marker = randomUUID()
      await using other = await open()
      expect(await outputOf(other, `sleep 100000 ${marker} >/dev/null 2>&1 & echo`)).toBe('\n')
      const seen = await outputOf(sandbox, 'cat /proc/[0-9]*/cmdline | tr "\\0" " "')
      expect(seen).not.toContain(marker)
      expect(seen).not.toMatch(/vitest|node /)
      expect(Number(await outputOf(sandbox, 'ls -d /proc/[0-9]* | wc -l'))).toBeLessThan(10)
      await other.destroy()
      expect(await hostProcesses(marker)).toEqual([])
    })

    test('there is no network but the own loopback', async (context) => {
      const { open } = await arena(context)
      const server = createServer((socket) => socket.end('host')).listen(0, '127.0.0.1')
      const name = `bramble-${randomUUID()}`
      const local = createServer((socket) => socket.end('host')).listen(`\0${name}`)
      await Promise.all([once(server, 'listening'), once(local, 'listening')])
      try {
        await using sandbox = await open()
        const devices = (await outputOf(sandbox, ['cat', '/proc/net/dev'])).trim().split('\n').slice(2)
        // Tunnel devices that the kernel makes in every namespace are down and lead nowhere.
        const names = devices.map((line) => line.split(':')[0]?.trim())
        expect(
          names.filter(
            (device) => !/^(lo|sit0|tunl0|ip6tnl0|gre0|gretap0|erspan0|ip_vti0|ip6_vti0|ip6gre0)$/.test(device ?? ''),
          ),
        ).toEqual([])
        expect((await outputOf(sandbox, ['cat', '/proc/net/route'])).trim().split('\n').length).toBe(1)
        const { port } = server.address() as { port: number }
        expect(await attempts(sandbox, 'connect', 'tcp', String(port))).not.toMatchObject({ 'connect(tcp)': 0 })
        expect(await attempts(sandbox, 'connect', 'abstract', name)).toEqual({ 'connect(abstract)': ECONNREFUSED })
        for (const address of ['1.1.1.1', '169.254.169.254', '172.17.0.1'])
          expect(await endOf(sandbox, `nc -w 2 ${address} 80 </dev/null`)).not.toBe(0)
      } finally {
        server.close()
        local.close()
      }
    })

    test("another sandbox's loopback is not this one's", async (context) => {
      const { open } = await arena(context)
      await using one = await open()
      await using two = await open()
      const listener = one.agent.exec({ argv: [HOSTILE, 'listen', '4242'], env: { PATH } })
      for await (const event of listener) {
        if (event.type !== 'stdout') continue
        expect(event.data.toString()).toBe('listening\n')
        expect(await attempts(two, 'connect', 'tcp', '4242')).not.toMatchObject({ 'connect(tcp)': 0 })
        // The attempt is one that succeeds where it may.
        expect(await attempts(one, 'connect', 'tcp', '4242')).toEqual({ 'connect(tcp)': 0 })
        break
      }
    })
  })
}
