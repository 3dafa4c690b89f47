import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import type { Agent, AgentProcess } from './agent.ts'
import { finish, procNumber, run, type SpawnedAgent, shell, spawnAgent } from './testing/spawn-agent.ts'

const isRoot = process.getuid?.() === 0
const POLL_MS = 5

const alive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

const gone = async (pid: number): Promise<void> => {
  while (alive(pid)) await delay(POLL_MS)
}

/** Reads events until the text is there; the command goes on. */
const until = async (
  command: AgentProcess,
  text: RegExp,
): Promise<{ match: RegExpExecArray; rest: AsyncIterator<unknown> }> => {
  const rest = command[Symbol.asyncIterator]()
  let seen = ''
  for (;;) {
    const next = await rest.next()
    if (next.done || next.value.type === 'exit') throw new Error(`it ended after ${seen}`)
    if (next.value.type === 'stdout') seen += next.value.data.toString()
    const match = text.exec(seen)
    if (match) return { match, rest }
  }
}

const drain = async (rest: AsyncIterator<unknown>): Promise<unknown> => {
  let last: unknown
  for (let next = await rest.next(); !next.done; next = await rest.next()) last = next.value
  return last
}

const zombies = async (parent: number): Promise<number> => {
  const children = (await readFile(`/proc/${parent}/task/${parent}/children`, 'utf8')).trim().split(' ').filter(Boolean)
  let count = 0
  for (const child of children) {
    const state = await readFile(`/proc/${child}/stat`, 'utf8').catch(() => '')
    if (/\) Z /.test(state)) count++
  }
  return count
}

const withAgent = async (body: (agent: Agent, spawned: SpawnedAgent) => Promise<void>): Promise<void> => {
  await using spawned = await spawnAgent()
  await using agent = await spawned.connect()
  await body(agent, spawned)
}

describe('the life of a command', () => {
  it('takes a signal for its whole group', () =>
    withAgent(async (agent) => {
      const command = agent.exec({
        argv: ['sh', '-c', 'trap : TERM; sleep 1000 & echo $!; wait; while :; do sleep 1000; done'],
      })
      const { match, rest } = await until(command, /(\d+)\n/)
      // Until the shell's child is `sleep`, it is a shell that takes the signal for its trap.
      while (alive(Number(match[1]))) {
        command.kill(15)
        await delay(POLL_MS)
      }
      command.kill(9)
      expect(await drain(rest)).toMatchObject({ type: 'exit', kind: 'signalled', signal: 9 })
      command.kill(9)
      expect(() => command.kill(0)).toThrow(TypeError)
      expect(() => command.kill(65)).toThrow(TypeError)
    }))

  it('still reaches the rest of the group after the command ended', () =>
    withAgent(async (agent) => {
      const command = agent.exec({ argv: ['sh', '-c', 'sleep 1000 & echo $!'], linger: true })
      const { match, rest } = await until(command, /(\d+)\n/)
      const ended = drain(rest)
      for (let i = 0; i < 20; i++) await run(agent, ['true'])
      command.kill(9)
      expect(await ended).toMatchObject({ type: 'exit', kind: 'exited', code: 0 })
      await gone(Number(match[1]))
    }))

  it('is killed, with its group, when its reader leaves early', () =>
    withAgent(async (agent) => {
      let pid = 0
      for await (const event of agent.exec({ argv: ['sh', '-c', 'sleep 1000 & echo $!; yes'] })) {
        if (event.type === 'started') pid = event.pid
        if (event.type === 'stdout') break
      }
      await gone(pid)
      expect((await shell(agent, 'echo fine')).stdout).toBe('fine\n')
    }))

  it('is not held by a daemon that keeps its streams, and all it wrote before is delivered', () =>
    withAgent(async (agent) => {
      const { stdout, exit } = await shell(
        agent,
        '(setsid sh -c "echo $$; sleep 1000" &) ; head -c 100000 /dev/zero; exit 7',
      )
      expect(exit).toMatchObject({ kind: 'exited', code: 7 })
      expect(stdout.replace(/\d+\n/, '')).toHaveLength(100_000)
    }))

  it('leaves a daemon a reader, so that writing does not kill it', () =>
    withAgent(async (agent, { folder }) => {
      const script = `(setsid sh -c 'sleep 0.3; head -c 1000000 /dev/zero; echo $? > ${folder}/status' &)`
      expect((await shell(agent, script)).exit).toMatchObject({ kind: 'exited', code: 0 })
      const status = await shell(agent, `until [ -s ${folder}/status ]; do sleep 0.01; done; cat ${folder}/status`)
      expect(status.stdout).toBe('0\n')
    }))

  it('waits for the end of its streams without limit when asked to', () =>
    withAgent(async (agent) => {
      const { stdout } = await shell(agent, '(sleep 0.4; echo late) & exit 0', { linger: true })
      expect(stdout).toBe('late\n')
      expect((await shell(agent, '(sleep 0.4; echo late) & exit 0')).stdout).toBe('')
    }))

  it('may close its streams and go on', () =>
    withAgent(async (agent) => {
      const { exit } = await shell(agent, 'exec >&- 2>&- <&-; sleep 0.2; exit 9')
      expect(exit).toMatchObject({ kind: 'exited', code: 9 })
    }))

  it('leaves no zombie, nor do orphans', () =>
    withAgent(async (agent, { pid }) => {
      const before = await zombies(pid)
      for (let i = 0; i < 5; i++)
        await shell(agent, 'for i in 1 2 3 4 5 6 7 8; do (sh -c "sleep 0.0$i & sleep 0" &) ; done')
      while ((await zombies(pid)) > before) await delay(POLL_MS)
      expect(await zombies(pid)).toBe(0)
    }))
})

describe('the life of an agent', () => {
  it('ends with its connection, outside a process namespace, and takes everything along', async () => {
    await using spawned = await spawnAgent()
    const agent = await spawned.connect()
    const daemon = await shell(agent, 'setsid sh -c "trap \\"\\" TERM HUP; sleep 1000" > /dev/null & echo $!')
    const command = agent.exec({ argv: ['sh', '-c', 'setsid sleep 1000 & echo $!; wait'] })
    const { match, rest } = await until(command, /(\d+)\n/)
    await agent.close()
    expect(await agent.closed).toBeUndefined()
    await expect(rest.next()).rejects.toMatchObject({ code: 'sandbox_died' })
    await spawned.exited()
    for (const pid of [match[1], daemon.stdout]) expect(alive(Number(pid))).toBe(false)
    await expect(agent.ping()).rejects.toMatchObject({ code: 'sandbox_died' })
    await expect(finish(agent.exec({ argv: ['true'] }))).rejects.toMatchObject({ code: 'sandbox_died' })
    await agent.close()
  })

  it('ends on SIGTERM the same way, and the host learns it', async () => {
    await using spawned = await spawnAgent()
    const agent = await spawned.connect()
    const command = agent.exec({ argv: ['sh', '-c', 'setsid sleep 1000 & echo $!; wait'] })
    const { match, rest } = await until(command, /(\d+)\n/)
    spawned.child.kill('SIGTERM')
    await spawned.exited()
    expect(await agent.closed).toMatchObject({ code: 'sandbox_died' })
    await expect(drain(rest)).rejects.toMatchObject({ code: 'sandbox_died' })
    expect(alive(Number(match[1]))).toBe(false)
  })

  it('serves one connection after another, and kills the commands of one that ended', async () => {
    await using spawned = await spawnAgent({ keep: true })
    const first = await spawned.connect()
    const { match } = await until(first.exec({ argv: ['sh', '-c', 'sleep 1000 & echo $!; wait'] }), /(\d+)\n/)
    const later = spawned.connect() // waits in line
    await first.close()
    const second = await later
    await gone(Number(match[1]))
    expect((await shell(second, 'echo again')).stdout).toBe('again\n')
  })

  it('closes a connection that sends garbage, and serves the next', async () => {
    await using spawned = await spawnAgent({ keep: true })
    const garbage = [Buffer.from('GET / HTTP/1.1\r\n\r\n'), Buffer.alloc(12), Buffer.alloc(4096, 0xff)]
    garbage.push(Buffer.from([0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0])) // EXEC with a byte that must be zero
    garbage.push(Buffer.from([1, 0, 16, 0, 2, 0, 0, 0, 1, 0, 0, 0])) // 1 MiB and one byte
    garbage.push(Buffer.from([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])) // EXEC on channel 0
    for (const bytes of garbage) {
      const stream = await spawned.open()
      const ended = once(stream, 'close')
      stream
        .on('error', () => {})
        .resume()
        .write(bytes)
      await ended
    }
    await using agent = await spawned.connect()
    expect((await shell(agent, 'echo still here')).stdout).toBe('still here\n')
  })

  it('outlives ten thousand connections of garbage', async () => {
    await using spawned = await spawnAgent({ keep: true })
    let seed = 1
    const random = (): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0
      return seed >>> 16
    }
    for (let i = 0; i < 10_000; i++) {
      const stream = await spawned.open()
      const bytes = Buffer.from(Array.from({ length: 12 + (random() % 52) }, () => random() & 0xff))
      if (i % 2) bytes.fill(0, 1, 8).writeUInt8(1 + (random() % 7), 4)
      const closed = once(stream, 'close')
      stream
        .on('error', () => {})
        .resume()
        .end(bytes)
      await closed
    }
    await using agent = await spawned.connect()
    expect((await shell(agent, 'echo still here')).stdout).toBe('still here\n')
    expect(await procNumber(spawned.pid, 'status', 'VmRSS')).toBeLessThan(2048)
  })
})

describe.runIf(isRoot)('the agent as PID 1', () => {
  it('reaps every orphan, takes no signal from inside, cannot be traced or read, and serves the host only', async () => {
    await using spawned = await spawnAgent({ init: true })
    const first = await spawned.connect()
    expect((await shell(first, 'echo $$; cat /proc/1/comm')).stdout).toMatch(/^\d{1,2}\nagent\n$/)
    for (const signal of ['TERM', 'INT', 'HUP', 'KILL', 'STOP', 'SEGV', 'USR1', 'CHLD', '33'])
      await shell(first, `kill -${signal} 1`)
    await first.ping()
    expect((await shell(first, 'cat /proc/1/mem; ls /proc/1/fd', { user: 'nobody' })).stdout).toBe('')

    await shell(first, 'for i in 1 2 3 4 5 6 7 8 9; do (sh -c "sleep 0.0$i & sleep 0" &) ; done')
    const count = "cat /proc/[0-9]*/stat | grep -c ') Z '"
    while ((await shell(first, count)).stdout !== '0\n') await delay(POLL_MS)

    await first.close()
    const second = await spawned.connect()
    const socket = `${spawned.folder}/agent.sock`
    const inside = [
      `import socket; s = socket.socket(socket.AF_UNIX); s.connect('${socket}'); print('in line', flush=True)`,
      `open('${spawned.folder}/heard', 'w').write(repr(s.recv(100)))`,
    ]
    await until(second.exec({ argv: ['setsid', 'python3', '-c', inside.join('\n')] }), /in line/)
    await second.close()
    const third = await spawned.connect()
    expect((await shell(third, 'echo served')).stdout).toBe('served\n')
    const heard = `until [ -s ${spawned.folder}/heard ]; do sleep 0.01; done; cat ${spawned.folder}/heard`
    expect((await shell(third, heard)).stdout).toBe("b''")
    await third.close()
  })

  it('says FAILED when there can be no more processes, and goes on', async () => {
    await using spawned = await spawnAgent({ uid: 54_321, processes: 2 })
    await using agent = await spawned.connect()
    const sleeper = agent.exec({ argv: ['sleep', '1000'] })
    const iterator = sleeper[Symbol.asyncIterator]()
    await iterator.next()
    expect((await run(agent, ['true'])).exit).toMatchObject({ kind: 'failed', step: 'fork', errno: 11 })
    sleeper.kill(9)
    await drain(iterator)
    expect((await run(agent, ['true'])).exit).toMatchObject({ kind: 'exited', code: 0 })
  })
})
