import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Agent, AgentProcess, ProcessEvent } from './agent.ts'
import { type SpawnedAgent, shell, spawnAgent } from './testing/spawn-agent.ts'

/** Drives a command on a terminal: types, and waits for what it shows. */
const screen = (command: AgentProcess) => {
  const events = command[Symbol.asyncIterator]()
  let shown = ''
  const next = async (): Promise<ProcessEvent | undefined> => {
    const { value, done } = await events.next()
    if (done) return undefined
    if (value.type === 'stdout') shown += value.data.toString()
    return value
  }
  return {
    type: (text: string) => command.write(Buffer.from(text)),
    shows: async (text: string): Promise<void> => {
      while (!shown.includes(text))
        if ((await next()) === undefined) throw new Error(`it ended after ${JSON.stringify(shown)}`)
      shown = shown.slice(shown.indexOf(text) + text.length)
    },
    end: async (): Promise<ProcessEvent> => {
      for (;;) {
        const event = await next()
        if (event === undefined) throw new Error('no exit')
        if (event.type === 'exit') return event
      }
    },
  }
}

describe('a terminal', () => {
  let spawned: SpawnedAgent
  let agent: Agent
  beforeAll(async () => {
    spawned = await spawnAgent()
    agent = await spawned.connect()
  })
  afterAll(async () => {
    await agent.close()
    await spawned[Symbol.asyncDispose]()
  })
  const env = { PATH: process.env.PATH ?? '', PS1: '$ ', TERM: 'xterm' }
  const open = (argv: string[]) => agent.exec({ argv, env, pty: { cols: 100, rows: 30 } })

  it('has its size, and another one when it is told', async () => {
    const command = open(['sh', '-c', 'stty size; trap "stty size" WINCH; echo ready; while read line; do :; done'])
    const { shows, type } = screen(command)
    await shows('30 100\r\n')
    await shows('ready')
    command.resize({ cols: 132, rows: 43 })
    await type('\n')
    await shows('43 132')
    command.kill(9)
  })

  it('echoes, edits lines, and ends input with Ctrl-D', async () => {
    const { type, shows, end } = screen(open(['cat']))
    await type('abd\x7fc\n')
    await shows('abd')
    await shows('abc\r\n')
    await type('\x04')
    expect(await end()).toMatchObject({ kind: 'exited', code: 0 })
  })

  it('has job control: Ctrl-C ends what runs in the foreground, not the shell', async () => {
    const { type, shows, end } = screen(open(['sh', '-i']))
    await shows('$ ')
    // One that runs for certain: a shell that is about to run something may swallow the signal.
    await type('cat\nbegun\n')
    await shows('begun\r\n')
    await shows('begun\r\n')
    await type('\x03')
    await shows('$ ')
    await type('sleep 1000 &\njobs; echo "still $((20 + 3))"\n')
    await shows('Running')
    await shows('still 23')
    await type('kill %1; exit 7\n')
    expect(await end()).toMatchObject({ kind: 'exited', code: 7 })
  })

  it('is the terminal of its command: /dev/tty opens, and it is the user’s own', async () => {
    const { shows, end } = screen(
      open(['sh', '-c', 'echo to-tty > /dev/tty; tty; test -O "$(tty)" && echo mine; ps -o tty= -p $$']),
    )
    await shows('to-tty')
    await shows('/dev/pts/')
    await shows('mine')
    expect(await end()).toMatchObject({ code: 0 })
  })

  it('carries UTF-8 and every byte in raw mode', async () => {
    const { type, shows, end } = screen(open(['sh', '-c', 'stty raw -echo; echo go; head -c 9 | od -An -tx1']))
    await shows('go')
    await type('é漢\x00\x03\x04\x7f')
    await shows('c3 a9 e6 bc a2 00 03 04 7f')
    expect(await end()).toMatchObject({ code: 0 })
  })

  it('hangs up on what is left when its command ends', async () => {
    const script = `sh -c 'trap "mkdir $0; exit" HUP; echo left; while :; do sleep 1000 & wait; done' "$0" & read line`
    const { shows, type, end } = screen(open(['sh', '-c', script, `${spawned.folder}/hup`]))
    await shows('left')
    await type('\n')
    expect(await end()).toMatchObject({ code: 0 })
    expect((await shell(agent, `until test -d ${spawned.folder}/hup; do sleep 0.01; done; echo hung up`)).stdout).toBe(
      'hung up\n',
    )
  })

  it('stands still while nobody reads, and loses nothing', async () => {
    const { shows, end } = screen(open(['sh', '-c', 'i=0; while [ $i -lt 20000 ]; do echo "row $i"; i=$((i+1)); done']))
    await shows('row 0\r\n')
    await shows('row 19999\r\n')
    expect(await end()).toMatchObject({ code: 0 })
  })
})
