import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { oci } from '@bramble/runtime'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { cgroupsOf, hostProcesses, sandboxCgroups, until } from './leftovers.ts'
import { canRunNode, type NodeProcess, startNodeProcess } from './node-process.ts'

interface Result {
  status: string
  exitCode: number | null
  signal?: string
  stdout: string
  stderr: string
  encoding: string
  truncated: boolean
  message?: string
}

/** A word that only the commands of this file have on their command line. */
const MARK = `bramble-hostile-${process.pid}`

/**
 * Hostile and broken commands against a whole node, as its users reach it. What a sandbox keeps a command from at the
 * level of the kernel is in the runtime's own suite; here the question is what the caller is told, and whether the node
 * and the next request are unharmed.
 */
describe('hostile commands', () => {
  let skip: string | undefined
  let node: NodeProcess
  let rssBefore = 0

  const run = async (command: string | string[], spec: Record<string, unknown> = {}): Promise<Result> => {
    const { call, close } = node.client()
    try {
      return await call<Result>('POST', '/api/v1/execute', { command, ...spec })
    } finally {
      close()
    }
  }
  const serves = async (): Promise<void> => {
    expect(await run(['echo', 'unharmed'])).toMatchObject({ status: 'succeeded', stdout: 'unharmed\n' })
  }

  beforeAll(async () => {
    skip = await canRunNode(oci())
    if (skip !== undefined) return
    node = await startNodeProcess()
    await serves()
    rssBefore = node.rssBytes()
  })
  afterAll(async () => {
    if (skip !== undefined) return
    const ours = new Set(cgroupsOf(node.dataDirectory))
    expect(ours.size).toBeGreaterThan(0)
    await until('nothing of the commands is left', () => !hostProcesses().some(({ command }) => command.includes(MARK)))
    await node[Symbol.asyncDispose]()
    await until('no cgroup of the node is left', () => !sandboxCgroups().some((path) => ours.has(path)))
  })

  const hostile = (name: string, body: () => Promise<void>): void => {
    test(name, async (context) => {
      if (skip !== undefined) context.skip(skip)
      await body()
      await serves()
    })
  }

  hostile('a fork bomb ends with its time, and a neighbour runs beside it', async () => {
    const bomb = run(`: ${MARK}; b() { b | b & b; }; b`, { resources: { timeoutMs: 2000, pids: 64 } })
    await serves()
    expect(['timeout', 'failed']).toContain((await bomb).status)
  })

  hostile('a memory bomb is told as such', async () => {
    const bomb = await run(`: ${MARK}; tail /dev/zero`, { resources: { memoryMb: 64 } })
    expect(bomb).toMatchObject({ status: 'oom' })
  })

  hostile('a disk filler meets its quota', async () => {
    const filled = await run('dd if=/dev/zero of=/fill bs=1M count=4096', { resources: { diskMb: 64 } })
    expect(filled.status).toBe('failed')
    expect(filled.stderr).toMatch(/quota exceeded|No space left/i)
  })

  hostile('a command that ignores SIGTERM ends with its time', async () => {
    const command = `: ${MARK}; trap '' TERM INT HUP; while :; do sleep 1; done`
    expect(await run(command, { resources: { timeoutMs: 300 } })).toMatchObject({ status: 'timeout', exitCode: null })
  })

  hostile('a command that closes its streams ends when it ends', async () => {
    expect(await run('exec <&- >&- 2>&-; exit 7')).toMatchObject({ status: 'failed', exitCode: 7 })
  })

  hostile('a daemon that was left behind neither holds the answer back nor outlives it', async () => {
    const command = `(setsid sh -c ': ${MARK}; sleep 600' > /dev/null 2>&1 &) ; (setsid sh -c ': ${MARK}; sleep 600' &); echo left`
    expect(await run(command)).toMatchObject({ status: 'succeeded', stdout: 'left\n' })
    await until('the daemon is gone', () => !hostProcesses().some(({ command: line }) => line.includes(MARK)))
  })

  hostile('ten gigabytes of output are cut off, said to be, and do not grow the node', async () => {
    const flood = await run('dd if=/dev/zero bs=1M count=10240 2> /dev/null', {
      resources: { maxOutputBytes: 1000, timeoutMs: 120_000 },
    })
    expect(flood).toMatchObject({ status: 'succeeded', truncated: true, encoding: 'utf8', stdout: '\0'.repeat(1000) })
    expect(node.rssBytes() - rssBefore).toBeLessThan(128 * 1024 * 1024)
  })

  hostile('the kernel of the host cannot be told to crash, mounts and devices cannot be made', async () => {
    const told = await run(
      'echo b > /proc/sysrq-trigger; mount -t tmpfs none /tmp; mknod /sda b 8 0; echo 1 > /proc/sys/kernel/panic; echo end',
    )
    expect(told.stdout).toBe('end\n')
    expect(told.stderr.match(/Read-only|not permitted|denied|nonexistent/gi)?.length).toBe(4)
  })

  hostile('the files of the host are not reached through /proc/1/root, nor through a link', async () => {
    const file = join(node.dataDirectory, 'admin.key')
    const secret = readFileSync(file, 'utf8')
    expect(secret.trim()).not.toBe('')
    const reached = await run(`ln -s / /tmp/l; cat ${file} /proc/1/root${file} /tmp/l${file} ../../../..${file}`, {
      workdir: '/tmp',
    })
    expect(reached.stdout).not.toContain(secret.trim())
    expect(reached.status).toBe('failed')
  })

  hostile('there is no network: not to the node, not to the host, not to a neighbour', async () => {
    const { port } = new URL(node.url)
    const reached = await run(
      `wget -T 2 -O- http://127.0.0.1:${port}/health; wget -T 2 -O- http://10.0.0.1/; cat /proc/net/route; ls /sys/class/net`,
    )
    expect(reached.stdout).not.toContain('ok')
    expect(reached.stdout.trim().split('\n').at(-1)).toBe('lo')
    expect(reached.stdout.trim().split('\n')).toHaveLength(2)
  })

  hostile('commands that cannot run say why by the codes of the shell', async () => {
    expect(await run(['no-such-command'])).toMatchObject({ status: 'failed', exitCode: 127 })
    expect(await run(['/etc/passwd'])).toMatchObject({ status: 'failed', exitCode: 126 })
    expect(await run('kill -SEGV $$')).toMatchObject({ status: 'failed', exitCode: 139, signal: 'SIGSEGV' })
  })

  hostile('bytes that are no text come as base64', async () => {
    const result = await run("printf '\\377\\376\\000x'")
    expect(result).toMatchObject({ encoding: 'base64', stdout: Buffer.from([255, 254, 0, 120]).toString('base64') })
  })

  hostile('what the request itself has wrong is a problem, not a crash', async () => {
    const code = async (body: unknown): Promise<string> => {
      const error = await run('true', body as Record<string, unknown>).catch((thrown: Error) => thrown.message)
      return /"code":"(\w+)"/.exec(String(error))?.[1] ?? 'none'
    }
    expect(await code({ image: 'no-such-image' })).toBe('image_not_found')
    expect(await code({ command: [] })).toBe('invalid_request')
    expect(await code({ command: ['a\0b'] })).toBe('invalid_request')
    expect(await code({ env: { BIG: 'x'.repeat(10 * 1024 * 1024) } })).toBe('invalid_request')
    expect(await code({ stdin: 'x'.repeat(20 * 1024 * 1024) })).toBe('body_too_large')
    expect(await code({ comand: 'typo' })).toBe('invalid_request')
  })
})
