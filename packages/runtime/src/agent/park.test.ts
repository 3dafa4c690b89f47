import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { AgentProcess, LogEntry, ProcessEvent } from './agent.ts'
import { connectAgent } from './connect-agent.ts'
import { FRAME, HEADER_BYTES } from './frames.ts'
import { finish, type SpawnedAgent, shell, spawnAgent } from './testing/spawn-agent.ts'

const sh = (script: string) => ({ argv: ['sh', '-c', script], env: { PATH: process.env.PATH ?? '' } })

let spawned: SpawnedAgent
beforeEach(async () => {
  spawned = await spawnAgent({ keep: true, events: true })
})
afterEach(() => spawned[Symbol.asyncDispose]())

const frame = (type: number, payload: Buffer): Buffer => {
  const header = Buffer.alloc(HEADER_BYTES)
  header.writeUInt32LE(payload.length, 0)
  header.writeUInt32LE(type, 4)
  return Buffer.concat([header, payload])
}

/** Events of a command as they come, and a promise of the first output. */
const listen = (command: AgentProcess) => {
  const events: ProcessEvent[] = []
  const begun = Promise.withResolvers<void>()
  const done = (async () => {
    for await (const event of command) {
      events.push(event.type === 'stdout' ? { ...event, data: Buffer.from(event.data) } : event)
      if (event.type === 'stdout') begun.resolve()
    }
  })()
  const text = (): string =>
    events.flatMap((event) => (event.type === 'stdout' ? [event.data.toString()] : [])).join('')
  return { events, begun: begun.promise, done, text }
}

test('commands with and without names go on over another stream, with nothing lost or told twice', async () => {
  await using agent = await spawned.connect()
  const seqs: number[] = []
  let text = ''
  agent.log.read((entry: LogEntry) => {
    seqs.push(entry.seq)
    if ('event' in entry && entry.event.type === 'stdout') text += entry.event.data.toString()
    agent.log.acknowledge(entry.seq)
  })
  const named = agent.log.start({ ...sh('echo begun; read a; echo "named $a"'), stdin: 'pipe' }, 'named')
  const command = agent.exec({ ...sh('echo begun; read a; echo "plain $a"; exit 4'), stdin: 'pipe' })
  const heard = listen(command)
  await heard.begun
  for (let i = 0; i < 3; i++) {
    await agent.park()
    const pinged = agent.ping()
    await agent.resume(await spawned.open())
    await pinged
  }
  expect(agent.parks).toBe(3)
  await Promise.all([named.write(Buffer.from('one\n')), command.write(Buffer.from('two\n'))])
  await heard.done
  while (!text.includes('named')) await agent.ping()
  expect(text).toBe('begun\nnamed one\n')
  expect(seqs).toEqual(seqs.map((_, i) => i + 1))
  expect(heard.text()).toBe('begun\nplain two\n')
  expect(heard.events.at(-1)).toMatchObject({ type: 'exit', kind: 'exited', code: 4 })
})

test('what is said and started while it stands still arrives afterwards', async () => {
  await using agent = await spawned.connect()
  const reading = agent.exec({ ...sh('cat'), stdin: 'pipe' })
  const heard = listen(reading)
  await reading.write(Buffer.from('before '))
  await heard.begun
  await agent.park()
  const writing = reading.write(Buffer.from('after'))
  const started = shell(agent, 'echo started')
  await agent.resume(await spawned.open())
  await writing
  reading.end()
  await heard.done
  expect(heard.text()).toBe('before after')
  expect((await started).stdout).toBe('started\n')
})

test('a flood is cut nowhere', async () => {
  await using agent = await spawned.connect()
  const ran = finish(agent.exec(sh('seq 200000')))
  const expected = Array.from({ length: 200_000 }, (_, i) => `${i + 1}\n`).join('')
  for (let i = 0; i < 5; i++) {
    await agent.park()
    await agent.resume(await spawned.open())
  }
  expect((await ran).stdout === expected).toBe(true)
})

test('a TCP connection goes on', async () => {
  await using agent = await spawned.connect()
  const accepted = Promise.withResolvers<Socket>()
  const server = createServer((socket) => accepted.resolve(socket)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const stream = await agent.connect({ port })
  const socket = await accepted.promise
  socket.on('error', () => {})
  await agent.park()
  stream.write('to the server')
  socket.write('to the host')
  await agent.resume(await spawned.open())
  expect(String((await once(stream, 'data'))[0])).toBe('to the host')
  expect(String((await once(socket, 'data'))[0])).toBe('to the server')
  stream.destroy()
  // Ended by a reset, which `once` would take for a failure.
  await new Promise((resolve) => socket.once('close', resolve))
  server.close()
})

test('a copy, which has not the bytes, loses what the connection before had asked for, and keeps the named commands', async () => {
  await using agent = await spawned.connect()
  agent.log.read(() => {})
  agent.log.start(sh('echo begun; sleep 1000'), 'named')
  const plain = listen(agent.exec(sh('echo $$; sleep 1000')))
  await plain.begun
  plain.done.catch(() => {})
  await agent.park()
  const copy = await connectAgent(await spawned.open(), { parked: true })
  expect([...copy.log.commands.keys()]).toEqual(['named'])
  const pid = plain.text().trim()
  expect((await shell(copy, `while kill -0 ${pid} 2>/dev/null; do :; done; echo gone`)).stdout).toBe('gone\n')
  await copy.close()
})

test('a transient command is gone before the agent stands still', async () => {
  await using agent = await spawned.connect()
  const command = listen(agent.exec({ ...sh('echo $$; exec sleep 1000'), transient: true }))
  await command.begun
  await agent.park()
  await agent.resume(await spawned.open())
  await command.done
  expect(command.events.at(-1)).toMatchObject({ type: 'exit', kind: 'signalled', signal: 9 })
})

test('nobody else can go on with the connection', async () => {
  await using agent = await spawned.connect()
  const plain = listen(agent.exec(sh('echo begun; sleep 1000')))
  await plain.begun
  await agent.park()
  const other = await spawned.open()
  other.resume()
  other.write(frame(FRAME.resume, Buffer.alloc(16, 7)))
  await once(other, 'data')
  other.destroy()
  await expect(agent.resume(await spawned.open())).rejects.toMatchObject({ code: 'agent_protocol' })
  await expect(plain.done).rejects.toMatchObject({ code: 'agent_protocol' })
})

test('parking twice, and going on with what is not parked, is refused', async () => {
  await using agent = await spawned.connect()
  await expect(agent.resume(await spawned.open())).rejects.toMatchObject({ code: 'conflict' })
  const parked = agent.park()
  await expect(agent.park()).rejects.toMatchObject({ code: 'conflict' })
  await parked
  await agent.resume(await spawned.open())
  await agent.ping()
})
