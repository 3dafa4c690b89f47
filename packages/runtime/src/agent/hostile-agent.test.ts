import { once } from 'node:events'
import { type Duplex, duplexPair } from 'node:stream'
import { describe, expect, it } from 'vitest'
import type { Agent, ProcessEvent } from './agent.ts'
import { WINDOW_BYTES } from './agent-process.ts'
import { connectAgent } from './connect-agent.ts'
import { getFile, putFile } from './files.ts'
import { allocFrame, dataFrame, FRAME, HEADER_BYTES } from './frames.ts'

const u32 = (...values: number[]): Buffer => {
  const bytes = Buffer.alloc(4 * values.length)
  for (const [i, value] of values.entries()) bytes.writeUInt32LE(value, 4 * i)
  return bytes
}

/** With a log that is empty, and so many named commands. */
const hello = (version = 2, named = 0): Buffer =>
  dataFrame(FRAME.hello, 0, u32(version, 1024 * 1024, 1, 0, 1, 0, named))
const started = (channel: number): Buffer => dataFrame(FRAME.started, channel, u32(42))
const exit = (channel: number, kind = 0, code = 0): Buffer =>
  dataFrame(FRAME.exit, channel, Buffer.concat([Buffer.from([kind, code, 0, 0]), Buffer.alloc(24)]))
const stdout = (channel: number, bytes: number): Buffer => dataFrame(FRAME.stdout, channel, Buffer.alloc(bytes, 'x'))

/** A peer that says what the test says. */
const peer = async (): Promise<{
  agent: Agent
  far: Duplex
  near: Duplex
  exec: () => AsyncIterator<ProcessEvent>
}> => {
  const [near, far] = duplexPair()
  far.write(hello())
  const agent = await connectAgent(near)
  far.on('error', () => {}).resume()
  return { agent, far, near, exec: () => agent.exec({ argv: ['x'], stdin: 'pipe' })[Symbol.asyncIterator]() }
}

const brokeProtocol = { code: 'agent_protocol' }

const lies: Record<string, Buffer[]> = {
  'a second HELLO': [hello()],
  'a type nobody knows': [allocFrame(0x90, 1, 0)],
  'a frame of the host': [allocFrame(FRAME.exec, 1, 0)],
  'a byte that must be zero': [allocFrame(FRAME.stdout | 0x200, 1, 1)],
  'a payload that is too long': [Buffer.concat([u32(1024 * 1024 + 1, FRAME.stdout, 1)])],
  'an EXIT that is too short': [started(1), dataFrame(FRAME.exit, 1, Buffer.alloc(27))],
  'a command that is not there': [started(2)],
  'a command on channel 0': [started(0)],
  'output before STARTED': [stdout(1, 1)],
  'EXIT before STARTED': [exit(1)],
  'STARTED twice': [started(1), started(1)],
  'FAILED after STARTED': [started(1), dataFrame(FRAME.failed, 1, Buffer.from([2, 0, 0, 0, 5]))],
  'FAILED with an unknown step': [dataFrame(FRAME.failed, 1, Buffer.from([2, 0, 0, 0, 7]))],
  'an EXIT of an unknown kind': [started(1), exit(1, 2, 0)],
  'an EXIT by signal 0': [started(1), exit(1, 1, 0)],
  'an EXIT by signal 65': [started(1), exit(1, 1, 65)],
  'EXIT twice': [started(1), exit(1), exit(1)],
  'output after EXIT': [started(1), exit(1), stdout(1, 1)],
  'one byte past the credit': [started(1), stdout(1, WINDOW_BYTES), stdout(1, 1)],
  'one byte past the credit of stderr': [
    started(1),
    dataFrame(FRAME.stderr, 1, Buffer.alloc(WINDOW_BYTES)),
    dataFrame(FRAME.stderr, 1, Buffer.alloc(1)),
  ],
  'an empty STDOUT': [started(1), stdout(1, 0)],
  'credit for stdin that was not used': [started(1), dataFrame(FRAME.stdinCredit, 1, u32(1))],
  'credit of nothing': [started(1), dataFrame(FRAME.stdinCredit, 1, u32(0))],
  'a PONG that nobody asked for': [dataFrame(FRAME.pong, 0, Buffer.alloc(0))],
  'REFUSED on channel 0': [dataFrame(FRAME.refused, 0, u32(1))],
  'REFUSED for what the host did right': [dataFrame(FRAME.refused, 1, u32(3))],
}

describe('a peer that is not the agent it says it is', () => {
  for (const [name, frames] of Object.entries(lies)) {
    it(`is cut off after ${name}`, async () => {
      const { agent, far, near, exec } = await peer()
      const iterator = exec()
      for (const frame of frames) far.write(frame)
      expect(await agent.closed).toMatchObject(brokeProtocol)
      expect(near.destroyed).toBe(true)
      const ends = frames.some((frame) => frame.readUInt32LE(4) === FRAME.exit && frame.length === HEADER_BYTES + 28)
      const events: ProcessEvent[] = []
      const drained = (async () => {
        for (let next = await iterator.next(); !next.done; next = await iterator.next()) events.push(next.value)
      })()
      if (ends && name !== 'EXIT before STARTED' && !name.startsWith('an EXIT')) await drained
      else await expect(drained).rejects.toMatchObject(brokeProtocol)
      await expect(agent.ping()).rejects.toMatchObject(brokeProtocol)
      await expect(exec().next()).rejects.toMatchObject(brokeProtocol)
    })
  }

  it('fails every command of the connection, and wakes every writer', async () => {
    const { agent, far } = await peer()
    const commands = [1, 2, 3].map(() => agent.exec({ argv: ['x'], stdin: 'pipe' }))
    const writes = commands.map((command) => command.write(Buffer.alloc(1024 * 1024)))
    const ping = agent.ping()
    ping.catch(() => {})
    far.write(allocFrame(0xff, 0, 0))
    for (const write of writes) await expect(write).rejects.toMatchObject(brokeProtocol)
    await expect(ping).rejects.toMatchObject(brokeProtocol)
    for (const command of commands)
      await expect(command[Symbol.asyncIterator]().next()).rejects.toMatchObject(brokeProtocol)
  })

  it('cannot make the host hold more than the window, however small the pieces', async () => {
    const { far, exec } = await peer()
    const iterator = exec()
    far.write(started(1))
    const piece = stdout(1, 1)
    const pieces = Buffer.concat(Array.from({ length: 10_000 }, () => piece))
    far.write(pieces)
    let events = 0
    let bytes = 0
    while (bytes < 10_000) {
      const next = await iterator.next()
      if (next.done || next.value.type !== 'stdout') continue
      events++
      bytes += next.value.data.length
    }
    expect(events).toBeLessThanOrEqual(1100)
  })

  it('cannot fill the host with entries of its log that nobody takes', async () => {
    const { agent, far } = await peer()
    const event = dataFrame(FRAME.event | 0x100, 0, Buffer.alloc(8192))
    for (let i = 0; i < 600; i++) far.write(event)
    expect(await agent.closed).toMatchObject(brokeProtocol)
  })

  it('cannot make signals and sizes pile up by not reading', async () => {
    const { agent, far, near } = await peer()
    far.pause()
    const command = agent.exec({ argv: ['x'], pty: { cols: 80, rows: 24 } })
    for (let i = 0; i < 500_000; i++) {
      command.resize({ cols: 1 + (i % 99), rows: 1 })
      command.kill(1)
    }
    // Frames leave at the end of a turn.
    await new Promise((resolve) => setImmediate(resolve))
    expect(near.writableLength).toBeLessThan(5 * 1024 * 1024)
    expect(near.writableLength).toBeGreaterThan(1024 * 1024)
  })

  it('cannot have more of standard input sent than a window', async () => {
    const [near, far] = duplexPair()
    far.on('error', () => {}).resume()
    far.write(hello(2, 1))
    const channel = Buffer.concat([Buffer.from([5]), u32(42, 64 * 1024 + 1), Buffer.from('name')])
    far.write(dataFrame(FRAME.channel, 7, channel))
    await expect(connectAgent(near)).rejects.toMatchObject(brokeProtocol)
  })

  it('cannot hold up whoever gives up on a file by falling silent', async () => {
    const { agent, far } = await peer()
    far.resume()
    const reason = new Error('enough')
    for (const begin of [
      (signal: AbortSignal) => getFile(agent, { path: '/x', maxBytes: 10, signal }),
      (signal: AbortSignal) => putFile(agent, { path: '/x', mode: 0o644, content: Buffer.alloc(1 << 20), signal }),
    ]) {
      const controller = new AbortController()
      const waiting = begin(controller.signal)
      setImmediate(() => controller.abort(reason))
      await expect(waiting).rejects.toBe(reason)
    }
  })

  it('gets credit back only for what was taken', async () => {
    const { far, exec } = await peer()
    const credits: number[] = []
    far.on('data', (chunk: Buffer) => {
      for (let at = 0; at + HEADER_BYTES <= chunk.length; at += HEADER_BYTES + chunk.readUInt32LE(at))
        if (chunk.readUInt32LE(at + 4) === FRAME.credit) credits.push(chunk.readUInt32LE(at + HEADER_BYTES + 1))
    })
    const iterator = exec()
    far.write(started(1))
    for (let i = 0; i < 16; i++) far.write(stdout(1, WINDOW_BYTES / 16))
    await iterator.next()
    expect(credits).toEqual([])
    for (let i = 0; i < 4; i++) await iterator.next()
    await once(far, 'data')
    expect(credits).toEqual([WINDOW_BYTES / 4])
  })
})

describe('a connection from inside', () => {
  // An `error` that nobody listens to would end this process, and fail the run.
  it('breaks with its agent, before it is made and in the same chunk that makes it', async () => {
    const waiting = await peer()
    const refused = waiting.agent.connect({ port: 80 })
    waiting.far.end()
    await expect(refused).rejects.toMatchObject({ code: 'sandbox_died' })

    const lying = await peer()
    const made = lying.agent.connect({ port: 80 })
    lying.far.write(Buffer.concat([started(1), started(1)]))
    const stream = await made
    expect(await lying.agent.closed).toMatchObject(brokeProtocol)
    expect(stream.destroyed).toBe(true)

    const given = await peer()
    const controller = new AbortController()
    const abandoned = given.agent.connect({ port: 80, signal: controller.signal })
    controller.abort()
    await expect(abandoned).rejects.toThrow()
    given.far.end(Buffer.concat([started(1), stdout(1, 1)]))
    expect(await given.agent.closed).toMatchObject({ code: 'sandbox_died' })
  })
})

describe('connecting', () => {
  const refused = async (write: (far: Duplex) => void, options = {}): Promise<unknown> => {
    const [near, far] = duplexPair()
    far.on('error', () => {}).resume()
    write(far)
    const error = await connectAgent(near, options).then(
      () => undefined,
      (thrown: unknown) => thrown,
    )
    expect(near.destroyed).toBe(true)
    return error
  }

  it('fails when there is no agent at the other end', async () => {
    expect(await refused((far) => far.end())).toMatchObject({ code: 'sandbox_died' })
    expect(await refused((far) => far.destroy(new Error('reset')))).toMatchObject({ code: 'sandbox_died' })
    expect(await refused((far) => far.write('HTTP/1.1 400 Bad Request\r\n'))).toMatchObject(brokeProtocol)
    expect(await refused((far) => far.write(started(1)))).toMatchObject(brokeProtocol)
    expect(await refused((far) => far.write(hello(3)))).toMatchObject(brokeProtocol)
    expect(await refused(() => {}, { helloTimeoutMs: 1 })).toMatchObject({ code: 'sandbox_failed' })
  })

  it('ends with the reason of its signal', async () => {
    const reason = new Error('not any more')
    expect(await refused(() => {}, { signal: AbortSignal.abort(reason) })).toBe(reason)
    const controller = new AbortController()
    const late = refused(() => {}, { signal: controller.signal })
    controller.abort(reason)
    expect(await late).toBe(reason)
  })

  it('takes a HELLO byte by byte, and what follows it in the same chunk', async () => {
    const [near, far] = duplexPair()
    const connecting = connectAgent(near)
    for (const byte of hello()) far.write(Buffer.from([byte]))
    const agent = await connecting
    const iterator = agent.exec({ argv: ['x'] })[Symbol.asyncIterator]()
    far.write(Buffer.concat([started(1), stdout(1, 5), exit(1, 1, 9)]))
    const events = [await iterator.next(), await iterator.next(), await iterator.next(), await iterator.next()]
    expect(events.map(({ value }) => value?.type)).toEqual(['started', 'stdout', 'exit', undefined])
    await agent.close()
    await agent.close()
    expect(await agent.closed).toBeUndefined()
  })
})
