import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** What lies beyond the host, in a network namespace: addresses of the kinds that policies tell apart, all with a server. */
export interface World extends AsyncDisposable {
  /** Public addresses (TEST-NET-3 and -2, which the rules do not tell from others). */
  readonly publicOne: string
  readonly publicTwo: string
  readonly privateOne: string
  readonly shared: string
  readonly linkLocal: string
  readonly port: number
}

/** Numbers that no other world of this host has: a route for each of its addresses is what takes them. */
const claimRoutes = async (device: string): Promise<number> => {
  for (let tried = 0; tried < 250; tried++) {
    const number = 2 + Math.floor(Math.random() * 250)
    const taken = await run('ip', ['route', 'add', `203.0.113.${number}/32`, 'dev', device]).then(
      () => true,
      () => false,
    )
    if (taken) return number
  }
  throw new Error('no address is free')
}

export const openWorld = async (): Promise<World> => {
  const name = `bw${process.pid.toString(36)}${Math.floor(Math.random() * 1e6).toString(36)}`.slice(0, 14)
  await run('ip', ['netns', 'add', name])
  let server: ReturnType<typeof spawn> | undefined
  const close = async (): Promise<void> => {
    if (server) {
      server.stdin?.end()
      if (server.exitCode === null) await once(server, 'exit')
    }
    await run('ip', ['link', 'del', name]).catch(() => {})
    await run('ip', ['netns', 'del', name])
  }
  try {
    await run('ip', ['link', 'add', name, 'type', 'veth', 'peer', 'name', 'up0', 'netns', name])
    await run('ip', ['link', 'set', name, 'up'])
    const number = await claimRoutes(name)
    const addresses = [
      `203.0.113.${number}`,
      `198.51.100.${number}`,
      `10.213.77.${number}`,
      `100.127.77.${number}`,
      `169.254.77.${number}`,
    ]
    const inside = ['link set lo up', 'link set up0 up', ...addresses.map((address) => `addr add ${address}/32 dev lo`)]
    for (const line of [...inside, 'route add default dev up0']) await run('ip', ['-n', name, ...line.split(' ')])
    for (const address of addresses.slice(1)) await run('ip', ['route', 'add', `${address}/32`, 'dev', name])
    const script = fileURLToPath(new URL('world-server.ts', import.meta.url))
    server = spawn('ip', ['netns', 'exec', name, process.execPath, script, ...addresses], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    const [line] = server.stdout ? await once(server.stdout, 'data') : []
    const [publicOne = '', publicTwo = '', privateOne = '', shared = '', linkLocal = ''] = addresses
    return {
      publicOne,
      publicTwo,
      privateOne,
      shared,
      linkLocal,
      port: Number(line),
      [Symbol.asyncDispose]: close,
    }
  } catch (error) {
    await close()
    throw error
  }
}
