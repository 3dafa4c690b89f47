import { execFile, execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Where a process runs: this host, or a network namespace of its own that can be cut off. */
export interface Place {
  readonly address: string
  /** One that nothing listens on. */
  port(): Promise<number>
  /** The words that run a program there. */
  wrap(program: string, args: readonly string[]): readonly [string, readonly string[]]
  /** Undefined where nothing can be cut. */
  readonly link: Link | undefined
}

/** The cable of a place. */
export interface Link {
  /** `both`: the cable is out, and nobody is told. `in`, `out`: packets of that direction are lost. */
  cut(way: 'both' | 'in' | 'out'): Promise<void>
  mend(): Promise<void>
}

export interface Field extends AsyncDisposable {
  /** Where servers that all places reach listen. */
  readonly address: string
  /** Why there are no partitions here. */
  readonly reason: string | undefined
  add(): Promise<Place>
}

const freePort = async (host: string): Promise<number> => {
  const server = createServer().listen(0, host)
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

const hostField = (reason: string): Field => ({
  address: '127.0.0.1',
  reason,
  add: async () => ({
    address: '127.0.0.1',
    port: () => freePort('127.0.0.1'),
    wrap: (program, args) => [program, args],
    link: undefined,
  }),
  async [Symbol.asyncDispose]() {},
})

/** A bridge of this host, and namespaces on it (ip-netns(8)); names and addresses follow from this process. */
const bridgeField = async (): Promise<Field> => {
  const made: string[][] = []
  const tag = process.pid.toString(36)
  const bridge = `chaos${tag}`
  const subnet = `10.${64 + ((process.pid >> 8) & 63)}.${process.pid & 255}`
  const address = `${subnet}.1`
  /** What it made is gone, however this process ends: the links of a namespace go with it. */
  const remove = (): void => {
    for (const words of made.splice(0).reverse()) execFileSync('ip', words, { stdio: 'ignore' })
  }
  process.once('exit', remove)
  const ip = (...words: string[]) => run('ip', words)
  await ip('link', 'add', bridge, 'type', 'bridge')
  made.push(['link', 'del', bridge])
  await ip('addr', 'add', `${address}/24`, 'dev', bridge)
  await ip('link', 'set', bridge, 'up')
  let places = 0

  const add = async (): Promise<Place> => {
    const number = ++places
    const namespace = `chaos${tag}-${number}`
    const outer = `ch${tag}-${number}`
    const own = `${subnet}.${number + 1}`
    const inside = (...words: string[]) => run('ip', ['netns', 'exec', namespace, ...words])
    await ip('netns', 'add', namespace)
    made.push(['netns', 'del', namespace])
    await ip('link', 'add', outer, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace)
    await ip('link', 'set', outer, 'master', bridge, 'up')
    await inside('ip', 'addr', 'add', `${own}/24`, 'dev', 'eth0')
    await inside('ip', 'link', 'set', 'lo', 'up')
    await inside('ip', 'link', 'set', 'eth0', 'up')
    const mend = async (): Promise<void> => {
      await ip('link', 'set', outer, 'up')
      await inside('iptables', '-F')
    }
    return {
      address: own,
      // Nobody else is there.
      port: async () => 8090,
      wrap: (program, args) => ['ip', ['netns', 'exec', namespace, program, ...args]],
      link: {
        async cut(way) {
          await mend()
          if (way === 'both') await ip('link', 'set', outer, 'down')
          else if (way === 'in') await inside('iptables', '-A', 'INPUT', '-i', 'eth0', '-j', 'DROP')
          else await inside('iptables', '-A', 'OUTPUT', '-o', 'eth0', '-j', 'DROP')
        },
        mend,
      },
    }
  }
  return {
    ...{ address, reason: undefined, add },
    [Symbol.asyncDispose]: async () => {
      remove()
      process.off('exit', remove)
    },
  }
}

/** Namespaces where this user may make them; else everything is on this host, and nothing is cut but the way to PostgreSQL. */
export const openField = async (): Promise<Field> => {
  try {
    const field = await bridgeField()
    const place = await field.add().catch(async (error: unknown) => {
      await field[Symbol.asyncDispose]()
      throw error
    })
    await place.link?.cut('in')
    await place.link?.mend()
    return field
  } catch (error) {
    return hostField(error instanceof Error ? error.message.trim().replaceAll('\n', ' ') : String(error))
  }
}
