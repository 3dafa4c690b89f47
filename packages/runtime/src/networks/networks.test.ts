import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { networkInterfaces, tmpdir } from 'node:os'
import { join } from 'node:path'
import { type NetworkPolicy, newId } from '@bramble/protocol'
import { afterAll, beforeAll, expect, onTestFinished, type TestContext, test } from 'vitest'
import { skip } from '../testing/subject.ts'
import type { NetworkLimits, Networks, SandboxNetwork } from './networks.ts'
import { openNetworks } from './open-networks.ts'
import { reach, runInside, spawnInside } from './testing/inside.ts'
import { type NameServer, openNameServer } from './testing/name-server.ts'
import { openWorld, type World } from './testing/world.ts'

let base: string
let networks: Networks
let names: NameServer
let world: World
/** A service of the host, on all of its addresses. */
let service: Server
let servicePort: number

const hostAddress = (): string =>
  Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .find(({ family, internal, address }) => family === 'IPv4' && !internal && !address.startsWith('100.'))?.address ??
  ''

beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), 'bramble-networks-'))
  names = await openNameServer()
  networks = await openNetworks({ directory: base, nameServers: [names.address] })
  if (networks.offers.length === 0) {
    if ((process.env.REQUIRE_DRIVERS ?? '').split(',').includes('oci')) throw new Error(networks.reason)
    return
  }
  world = await openWorld()
  service = createServer((socket) => socket.end('the host\n')).listen(0, '0.0.0.0')
  await once(service, 'listening')
  servicePort = (service.address() as { port: number }).port
})
afterAll(async () => {
  await networks?.close()
  await names?.[Symbol.asyncDispose]()
  await world?.[Symbol.asyncDispose]()
  service?.close()
  await rm(base, { recursive: true, force: true })
})

const take = async (context: TestContext, policy: NetworkPolicy, limits?: NetworkLimits): Promise<SandboxNetwork> => {
  if (networks.offers.length === 0) skip(context, networks.reason ?? 'no networks')
  const network = await networks.take(newId('sandbox'), policy, limits)
  onTestFinished(() => network.release())
  return network
}

/** Which of the addresses answer, over TCP and UDP. */
const reached = async (network: SandboxNetwork, addresses: Record<string, string>, port = world.port) => {
  const tries = Object.entries(addresses).flatMap(([name, address]) =>
    (['tcp', 'udp'] as const).map(async (kind) =>
      (await reach(network, address, port, { kind })) ? `${kind} ${name}` : [],
    ),
  )
  return (await Promise.all(tries)).flat().sort()
}
const everywhere = () => {
  const { publicOne, publicTwo, privateOne, shared, linkLocal } = world
  return { publicOne, publicTwo, privateOne, shared, linkLocal }
}

test('egress reaches public addresses and nothing else', async (context) => {
  const network = await take(context, 'egress')
  expect(await reached(network, everywhere())).toEqual([
    'tcp publicOne',
    'tcp publicTwo',
    'udp publicOne',
    'udp publicTwo',
  ])
  // What it sends has the host's address, not one that only the host knows.
  expect(await reach(network, world.publicOne, world.port)).not.toContain(network.address)
  const host = { own: hostAddress(), gateway: network.resolver, loopback: '127.0.0.1', any: '0.0.0.0' }
  expect(await reached(network, host, servicePort)).toEqual([])
  const ping = (address: string) => runInside(network, ['busybox', 'ping', '-c', '1', '-W', '1', address])
  expect((await ping(world.publicOne)).code).toBe(0)
  expect((await ping(world.privateOne)).code).not.toBe(0)
  expect((await ping(hostAddress())).code).not.toBe(0)
})

test('none reaches nothing', async (context) => {
  const network = await take(context, 'none')
  expect(await reached(network, everywhere())).toEqual([])
  expect(await reached(network, { own: hostAddress(), gateway: network.resolver }, servicePort)).toEqual([])
})

test('an allow list reaches what it names, private addresses too, and nothing else', async (context) => {
  const network = await take(context, { allow: [world.publicOne, `${world.privateOne}/28`] })
  expect(await reached(network, everywhere())).toEqual([
    'tcp privateOne',
    'tcp publicOne',
    'udp privateOne',
    'udp publicOne',
  ])
})

test('the host and link-local addresses are reached only where they are named exactly', async (context) => {
  const wide = await take(context, { allow: ['0.0.0.0/0', '169.254.0.0/17', `${hostAddress()}/30`].slice(0, 1) })
  expect(await reached(wide, everywhere())).toEqual(
    ['privateOne', 'publicOne', 'publicTwo', 'shared'].flatMap((name) => [`tcp ${name}`, `udp ${name}`]).sort(),
  )
  expect(await reached(wide, { own: hostAddress(), gateway: wide.resolver }, servicePort)).toEqual([])
  const exact = await take(context, { allow: [hostAddress(), world.linkLocal] })
  expect(await reach(exact, hostAddress(), servicePort)).toBe('the host\n')
  expect(await reached(exact, everywhere())).toEqual(['tcp linkLocal', 'udp linkLocal'])
  await expect(networks.take(newId('sandbox'), { allow: ['127.0.0.1'] })).rejects.toMatchObject({
    code: 'invalid_request',
  })
})

test('sandboxes cannot reach each other, whatever they are allowed', async (context) => {
  const one = await take(context, { allow: ['0.0.0.0/0'] })
  const two = await take(context, 'egress')
  const listen = `require('net').createServer((s) => s.end('other')).listen(7000, '0.0.0.0');
    require('dgram').createSocket('udp4', function (d, r) { this.send('other', r.port, r.address) }).bind(7000, () => console.log('up'))`
  const server = spawnInside(two, [process.execPath, '-e', listen])
  onTestFinished(() => void server.kill('SIGKILL'))
  if (server.stdout) await once(server.stdout, 'data')
  expect(await reach(two, '127.0.0.1', 7000)).toBe('other')
  expect(await reached(one, { other: two.address }, 7000)).toEqual([])
  const exact = await take(context, { allow: [two.address] })
  expect(await reached(exact, { other: two.address }, 7000)).toEqual([])
  // Nor does anyone on the host, or beyond it, who knows a route.
  expect(await reach(one, two.address, 7000, { source: one.address })).toBe('')
  const fromHost = execFileSync(process.execPath, [
    '-e',
    `const s = require('net').connect(7000, '${two.address}'); s.on('error', () => process.exit()); s.on('data', (d) => console.log(String(d)));
     setTimeout(() => process.exit(), 700)`,
  ])
  expect(String(fromHost)).toBe('')
})

test('root of the namespace, with every capability, gains nothing', async (context) => {
  const network = await take(context, { allow: [world.publicOne] })
  const other = await take(context, 'egress')
  const ip = async (...args: string[]) => expect((await runInside(network, ['ip', ...args])).complaint).toBe('')
  // Addresses that are not its own: of another sandbox with more rights, and of the world.
  for (const source of [other.address, world.publicTwo, '192.0.2.77']) {
    await ip('addr', 'add', `${source}/32`, 'dev', 'eth0')
    for (const kind of ['tcp', 'udp'] as const)
      expect(await reach(network, world.publicOne, world.port, { kind, source })).toBe('')
  }
  expect(await reach(network, world.publicOne, world.port, { source: network.address })).toContain('tcp from')
  // ARP and another hardware address, to the other sandbox's link.
  await ip('link', 'set', 'eth0', 'arp', 'on')
  await ip('route', 'add', world.publicTwo, 'dev', 'eth0')
  expect(await reached(network, { publicTwo: world.publicTwo })).toEqual([])
  // IPv6, which is off, turned on.
  await runInside(network, [
    'sysctl',
    '-q',
    '-w',
    'net.ipv6.conf.all.disable_ipv6=0',
    'net.ipv6.conf.eth0.disable_ipv6=0',
  ])
  await runInside(network, ['ip', '-6', 'addr', 'add', 'fd00:1::2/64', 'dev', 'eth0', 'nodad'])
  const v6 = createServer((socket) => socket.end('the host\n')).listen(0, '::')
  onTestFinished(() => void v6.close())
  await once(v6, 'listening')
  const hostV6 = Object.values(networkInterfaces())
    .flat()
    .find((each) => each?.family === 'IPv6' && !each.internal)
  await runInside(network, ['ip', '-6', 'route', 'add', 'default', 'dev', 'eth0'])
  for (const address of [hostV6?.address, 'fe80::1%eth0', 'ff02::1%eth0'])
    if (address) expect(await reach(network, address, (v6.address() as { port: number }).port)).toBe('')
})

test('a policy that is made tighter cuts what is open, and leaves what it still allows', async (context) => {
  const network = await take(context, 'egress')
  const open = async (address: string) => {
    const client = spawnInside(network, ['busybox', 'nc', address, String(world.port)])
    onTestFinished(() => void client.kill('SIGKILL'))
    const lines: string[] = []
    client.stdout?.on('data', (chunk: Buffer) => lines.push(String(chunk)))
    if (client.stdout) await once(client.stdout, 'data')
    return {
      echo: async (text: string): Promise<boolean> => {
        lines.length = 0
        client.stdin?.write(`${text}\n`)
        const answered = client.stdout ? once(client.stdout, 'data') : Promise.resolve()
        return await Promise.race([answered.then(() => true), new Promise<false>((no) => setTimeout(no, 700, false))])
      },
    }
  }
  const one = await open(world.publicOne)
  const two = await open(world.publicTwo)
  expect(await Promise.all([one.echo('a'), two.echo('a')])).toEqual([true, true])
  await network.setPolicy({ allow: [world.publicTwo] })
  expect(await Promise.all([one.echo('b'), two.echo('b')])).toEqual([false, true])
  await network.setPolicy('none')
  expect(await two.echo('c')).toBe(false)
  expect(await reached(network, everywhere())).toEqual([])
  await network.setPolicy({ allow: [world.publicOne] })
  expect(await reached(network, everywhere())).toEqual(['tcp publicOne', 'udp publicOne'])
})

test('connections at once are bounded', async (context) => {
  const network = await take(context, 'egress', { connections: 3 })
  const many = `let up = 0, ended = 0
    for (let i = 0; i < 6; i++) {
      const s = require('net').connect(${world.port}, '${world.publicOne}')
      s.on('data', () => { if (++up === 3) setTimeout(() => { console.log(up); process.exit() }, 500) })
      s.on('error', () => {})
    }`
  expect((await runInside(network, [process.execPath, '-e', many])).output).toBe('3\n')
  expect(await reach(await take(context, 'egress'), world.publicOne, world.port)).toContain('tcp from')
})

test('bandwidth is bounded in each direction, and what is let through is counted', async (context) => {
  const network = await take(context, 'egress', { bandwidthMbit: 1 })
  const sendBytes = 8 * 1024 * 1024
  const flood = `const socket = require('dgram').createSocket('udp4')
    socket.connect(${world.port}, '${world.publicOne}', () => {
      let left = ${sendBytes / 1400}
      const next = () => left-- > 0 ? socket.send(Buffer.alloc(1372), next) : process.exit()
      next()
    })`
  expect(await network.stats()).toEqual({ egressBytes: 0, ingressBytes: 0 })
  await runInside(network, [process.execPath, '-e', flood])
  const { egressBytes, ingressBytes } = await network.stats()
  expect(egressBytes).toBeGreaterThan(100_000)
  expect(egressBytes).toBeLessThan(sendBytes / 2)
  expect(ingressBytes).toBe(0)
  const fast = await take(context, 'egress')
  await runInside(fast, ['busybox', 'nc', '-w', '1', world.publicOne, String(world.port)], 'x'.repeat(1_000_000))
  const echoed = await fast.stats()
  expect(echoed.egressBytes).toBeGreaterThan(1_000_000)
  expect(echoed.ingressBytes).toBeGreaterThan(1_000_000)
  // What is dropped is not counted.
  await reached(fast, { privateOne: world.privateOne })
  const after = await fast.stats()
  expect(after).toEqual(echoed)
})

test('a network that is released leaves nothing, and one that is closed neither', async (context) => {
  if (networks.offers.length === 0) skip(context, networks.reason ?? 'no networks')
  const directory = await mkdtemp(join(base, 'own-'))
  const own = await openNetworks({ directory, nameServers: [names.address], readySlots: 2 })
  const network = await own.take(newId('sandbox'), { allow: ['example.org', world.publicOne, '10.0.0.0/8'] })
  const [link = ''] = (await links()).filter((name) => name === linkOf(network))
  expect(link).not.toBe('')
  const table = tableOf(link)
  await network.release()
  await network.release()
  expect(await links()).not.toContain(link)
  expect(String(execFileSync('nft', ['list', 'table', 'inet', table]))).not.toContain(network.address)
  await own.close()
  await own.close()
  expect((await links()).filter((name) => name.startsWith(link.split('-')[0] ?? ''))).toEqual([])
  expect(() => execFileSync('nft', ['list', 'table', 'inet', table], { stdio: 'pipe' })).toThrow()
  await expect(own.take(newId('sandbox'), 'egress')).rejects.toMatchObject({ code: 'shutting_down' })
})

const links = () => readdir('/sys/class/net')
const linkOf = (network: SandboxNetwork): string =>
  /dev (br\S+)/.exec(String(execFileSync('ip', ['route', 'show', network.address])))?.[1] ?? ''
const tableOf = (link: string): string =>
  String(execFileSync('nft', ['list', 'tables']))
    .split('\n')
    .map((line) => line.split(' ')[2] ?? '')
    .find((name) => name.startsWith(`bramble_${link.slice(2, 9)}`)) ?? ''
