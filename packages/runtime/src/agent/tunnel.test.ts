import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import type { Agent } from './agent.ts'
import { type SpawnedAgent, shell, spawnAgent } from './testing/spawn-agent.ts'

const listen = async (onConnection: (socket: Socket) => void, host = '127.0.0.1'): Promise<number> => {
  const sockets = new Set<Socket>()
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    onConnection(socket)
  })
  server.listen(0, host)
  await once(server, 'listening')
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no address')
  return address.port
}

describe('a connection from inside', () => {
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

  it('carries bytes both ways, and each direction ends by itself', async () => {
    const port = await listen((socket) => {
      void buffer(socket).then((got) =>
        socket.end(`got ${got.length} ${createHash('sha256').update(got).digest('hex')}`),
      )
    })
    const data = Buffer.alloc(5_000_000, 'abcdefg')
    const stream = await agent.connect({ port })
    stream.end(data)
    expect((await buffer(stream)).toString()).toBe(`got 5000000 ${createHash('sha256').update(data).digest('hex')}`)
  })

  it('goes at the reader’s pace', async () => {
    let sent = 0
    const port = await listen((socket) => {
      const chunk = Buffer.alloc(65_536)
      const more = (): void => {
        let room = true
        for (; room && sent < 64 * 1024 * 1024; sent += chunk.length) room = socket.write(chunk)
        if (sent >= 64 * 1024 * 1024) socket.end()
      }
      socket.on('drain', more)
      more()
    })
    const stream = await agent.connect({ port })
    await once(stream, 'readable')
    // A round trip on the same connection: whatever would have come without a reader has.
    for (let i = 0; i < 20; i++) await shell(agent, 'true')
    expect(stream.readableLength).toBeLessThan(2 * 1024 * 1024)
    let got = 0
    for await (const chunk of stream) got += (chunk as Buffer).length
    expect(got).toBe(sent)
    stream.end()
  })

  it('reaches IPv6 where IPv4 is not listened on', async () => {
    const port = await listen((socket) => socket.end('six'), '::1').catch(() => 0)
    if (port === 0) return
    const stream = await agent.connect({ port })
    stream.end()
    expect((await buffer(stream)).toString()).toBe('six')
  })

  it('says that nothing listens, and what is no address', async () => {
    const port = await listen(() => {})
    const free = await listen(() => {})
    expect(port).not.toBe(free)
    await expect(agent.connect({ port: 1 })).rejects.toMatchObject({ code: 'port_closed' })
    for (const target of [{ port: 0 }, { port: 65_536 }, { port: 80, host: 'localhost' }, { port: 80, host: '1.2.3' }])
      await expect(agent.connect(target)).rejects.toMatchObject({ code: 'invalid_request' })
    await expect(agent.connect({ port, signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow('enough')
  })

  it('is cut when either side gives up', async () => {
    const closed = Promise.withResolvers<void>()
    const port = await listen((socket) => {
      socket.resume().on('close', () => closed.resolve())
      socket.write('hello')
    })
    const stream = await agent.connect({ port })
    await once(stream, 'readable')
    stream.destroy()
    await closed.promise
    const abrupt = await listen((socket) => socket.resetAndDestroy())
    const other = await agent.connect({ port: abrupt })
    await pipeline(Readable.from([Buffer.alloc(1_000_000)]), other).catch(() => {})
    await buffer(other).catch(() => {})
    expect((await shell(agent, 'echo fine')).stdout).toBe('fine\n')
  })

  it('many at once, and none is left behind', async () => {
    const port = await listen((socket) => socket.pipe(socket))
    for (let round = 0; round < 3; round++) {
      const echoes = await Promise.all(
        Array.from({ length: 100 }, async (_, i) => {
          const stream = await agent.connect({ port })
          stream.end(`number ${i}`)
          return (await buffer(stream)).toString()
        }),
      )
      expect(echoes).toEqual(Array.from({ length: 100 }, (_, i) => `number ${i}`))
    }
  })

  it('ends with the agent', async () => {
    const port = await listen(() => {})
    await using other = await spawnAgent()
    const connected = await other.connect()
    const stream = await connected.connect({ port })
    const failed = once(stream, 'error')
    other.child.kill('SIGKILL')
    expect(await failed).toMatchObject([{ code: 'sandbox_died' }])
    await expect(connected.connect({ port })).rejects.toMatchObject({ code: 'sandbox_died' })
  })
})
