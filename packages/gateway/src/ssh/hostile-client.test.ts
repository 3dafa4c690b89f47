import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import ssh2, { type Client, type ClientChannel } from 'ssh2'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { openRealNode, type RealNode } from '../../test/real-node.ts'
import { openSshServer, type SshLimits, type SshServer } from './server.ts'

describe('a client of SSH that misbehaves', { timeout: 60_000 }, () => {
  let node: RealNode
  let skip: string | undefined
  beforeAll(async () => {
    const opened = await openRealNode()
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

  const open = async (limits: Partial<SshLimits>, auth = true): Promise<SshServer> => {
    const server = await openSshServer({
      instances: node.engine.instances,
      keys: {
        find: (key) =>
          key === 'right' ? { tenant: 'default', keyId: 'k', scopes: ['execute'], quota: {} } : undefined,
      },
      sshKeys: { tenantsOf: () => [] },
      auth,
      dataDirectory: node.directory,
      host: '127.0.0.1',
      port: 0,
      limits,
    })
    onTestFinished(() => server.close())
    return server
  }
  const login = async ({ port }: SshServer, password = 'right'): Promise<Client> => {
    const client = new ssh2.Client()
    onTestFinished(() => void client.end())
    const ready = new Promise<void>((resolve, reject) => client.once('ready', resolve).once('error', reject))
    client.on('error', () => {})
    client.connect({ host: '127.0.0.1', port, username: 'box', password, readyTimeout: 20_000 })
    await ready
    return client
  }
  const closes = async (socket: Socket): Promise<void> => {
    socket.on('error', () => {})
    socket.resume()
    await once(socket, 'close')
  }

  it('needs no key where the node has none, but an instance that is there', async () => {
    const server = await open({}, false)
    await login(server, 'anything')
    const client = new ssh2.Client()
    const closed = new Promise<void>((resolve) => client.once('close', () => resolve()))
    const failed = new Promise((resolve) => client.on('error', resolve))
    client.connect({ host: '127.0.0.1', port: server.port, username: 'none' })
    await Promise.all([failed, closed])
  })

  it('says nothing: it is cut off', async () => {
    const { port } = await open({ loginGraceMs: 50 })
    await closes(connect(port, '127.0.0.1'))
  })

  it('fails to log in again and again: it is not listened to for a while, and others are', async () => {
    const server = await open({ failuresPerMinute: 3 })
    for (let i = 0; i < 4; i++) await expect(login(server, 'wrong')).rejects.toThrow()
    await expect(login(server)).rejects.toThrow()
    const other = await open({ failuresPerMinute: 3 })
    await login(other)
  })

  it('tries one password after the other: it gets so many', async () => {
    const server = await open({ maxAttempts: 3 })
    const client = new ssh2.Client()
    let asked = 0
    client.on('error', () => {})
    client.connect({
      host: '127.0.0.1',
      port: server.port,
      username: 'box',
      authHandler: (_left, _partial, next) => {
        asked++
        next({ type: 'password', username: 'box', password: `wrong${asked}` })
      },
    })
    await once(client, 'close')
    expect(asked).toBe(4)
  })

  it('opens connection after connection without logging in: its oldest give way, and others log in', async () => {
    const server = await open({ maxUnauthenticated: 2 })
    const dial = async (): Promise<Socket> => {
      const socket = connect(server.port, '127.0.0.1')
      socket.on('error', () => {})
      await once(socket, 'data')
      return socket
    }
    const [first, second] = [await dial(), await dial()]
    const firstEnds = closes(first)
    const third = await dial()
    await firstEnds
    const secondEnds = closes(second)
    await login(server)
    await secondEnds
    third.destroy()
  })

  it('is one of too many of its tenant', async () => {
    const server = await open({ maxConnectionsPerTenant: 1 })
    await login(server)
    const second = await login(server).catch(() => undefined)
    if (second) await once(second, 'close')
  })

  it('opens channel after channel: so many, until some are closed', async () => {
    const client = await login(await open({ maxChannels: 3 }))
    const exec = (command: string): Promise<ClientChannel> =>
      new Promise((resolve, reject) =>
        client.exec(command, (error, channel) => (error ? reject(error) : resolve(channel))),
      )
    const first = [await exec('cat'), await exec('cat'), await exec('cat')]
    await expect(exec('cat')).rejects.toThrow('Channel open failure')
    for (const channel of first) {
      const closed = once(channel, 'close')
      channel.resume()
      channel.end()
      await closed
    }
    const again = await exec('echo again')
    expect(String((await once(again, 'data'))[0])).toBe('again\n')
  })

  it('sends more than it was allowed to: the connection ends', async () => {
    const client = await login(await open({ maxHeldBytes: 4 * 1024 * 1024 }))
    const channel = await new Promise<ClientChannel>((resolve, reject) =>
      client.exec('sleep 1000', (error, opened) => (error ? reject(error) : resolve(opened))),
    )
    const closed = new Promise<void>((resolve) => client.once('close', () => resolve()))
    // Past the window that the server gave, which ssh2's own client would keep to.
    const inside = channel as unknown as { outgoing: { id: number } }
    const { _protocol: protocol } = client as unknown as { _protocol: { channelData(id: number, data: Buffer): void } }
    // Of a size that jumps over a window of 0, at which data is dropped.
    const chunk = Buffer.alloc(30_001)
    for (let i = 0; i < 512; i++) protocol.channelData(inside.outgoing.id, chunk)
    await closed
  })
})
