import { execFileSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type NetworkPolicy, newId } from '@bramble/protocol'
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, type TestContext, test } from 'vitest'
import { skip } from '../testing/subject.ts'
import type { Networks, SandboxNetwork } from './networks.ts'
import { openNetworks } from './open-networks.ts'
import { reach, runInside } from './testing/inside.ts'
import { type NameServer, openNameServer } from './testing/name-server.ts'
import { openWorld, type World } from './testing/world.ts'

let base: string
let networks: Networks
let names: NameServer
let world: World

const a = (name: string, ...addresses: string[]) =>
  addresses.map((data) => ({ type: 'A' as const, name, ttl: 300, data }))

beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), 'bramble-resolver-'))
  names = await openNameServer()
  networks = await openNetworks({ directory: base, nameServers: [names.address] })
  if (networks.offers.length > 0) world = await openWorld()
  else if ((process.env.REQUIRE_DRIVERS ?? '').split(',').includes('oci')) throw new Error(networks.reason)
})
afterAll(async () => {
  await networks?.close()
  await names?.[Symbol.asyncDispose]()
  await world?.[Symbol.asyncDispose]()
  await rm(base, { recursive: true, force: true })
})
beforeEach(() => {
  names.asked.length = 0
  names.records.clear()
})

const take = async (context: TestContext, policy: NetworkPolicy): Promise<SandboxNetwork> => {
  if (networks.offers.length === 0) skip(context, networks.reason ?? 'no networks')
  const network = await networks.take(newId('sandbox'), policy)
  onTestFinished(() => network.release())
  return network
}

/** Asks a name server from inside: the records, or the code of the error. */
const ask = async (
  network: SandboxNetwork,
  type: string,
  name: string,
  server = network.resolver,
): Promise<unknown> => {
  const script = `const { Resolver } = require('dns').promises
    const resolver = new Resolver({ timeout: 800, tries: 1 })
    resolver.setServers([process.argv[3]])
    resolver.resolve(process.argv[2], process.argv[1]).then((found) => console.log(JSON.stringify(found)), (error) => console.log(JSON.stringify(error.code)))`
  const { output } = await runInside(network, [process.execPath, '-e', script, type, name, server])
  return JSON.parse(output)
}

test('a name of the allow list is answered, and its addresses are let through before that', async (context) => {
  names.records.set('api.example.org', a('api.example.org', world.publicOne))
  names.records.set('deep.sub.example.net', a('deep.sub.example.net', world.publicTwo))
  const network = await take(context, { allow: ['API.example.org.', '*.example.net'] })
  expect(await reach(network, world.publicOne, world.port)).toBe('')
  expect(await ask(network, 'A', 'api.example.ORG')).toEqual([world.publicOne])
  expect(await reach(network, world.publicOne, world.port)).toContain('tcp from')
  expect(await reach(network, world.publicTwo, world.port)).toBe('')
  expect(await ask(network, 'A', 'deep.sub.example.net')).toEqual([world.publicTwo])
  expect(await reach(network, world.publicTwo, world.port, { kind: 'udp' })).toContain('udp from')
  // What the kernel heard is what the sandbox heard: another sandbox has heard nothing.
  const other = await take(context, { allow: ['api.example.org'] })
  expect(await reach(other, world.publicOne, world.port)).toBe('')
})

test('other names do not exist, and no query for them leaves the host', async (context) => {
  for (const name of ['example.org', 'evil.org', 'notexample.org', 'api.example.org.evil.org'])
    names.records.set(name, a(name, world.publicOne))
  const network = await take(context, { allow: ['api.example.org', '*.example.org'] })
  for (const name of ['evil.org', 'example.org', 'notexample.org', 'api.example.org.evil.org', 'localhost.localdomain'])
    expect(await ask(network, 'A', name)).toBe('ENOTFOUND')
  expect(await ask(network, 'TXT', 'secret-in-a-name.evil.org')).toBe('ENOTFOUND')
  expect(names.asked).toEqual([])
  // Nor is there another name server to ask.
  expect(await ask(network, 'A', 'evil.org', world.publicOne)).toBe('ETIMEOUT')
  expect(await reach(network, world.publicOne, world.port)).toBe('')
})

test('a name that leads to an address that is not public does not', async (context) => {
  const hidden = [world.privateOne, world.shared, world.linkLocal, '127.0.0.1', '169.254.169.254', '0.0.0.0']
  const policies: NetworkPolicy[] = ['egress', { allow: ['*.example.org'] }]
  for (const policy of policies) {
    const network = await take(context, policy)
    for (const [index, address] of hidden.entries()) {
      names.records.set(`r${index}.example.org`, a(`r${index}.example.org`, address))
      expect(await ask(network, 'A', `r${index}.example.org`)).toBe('ENODATA')
      expect(await reach(network, address, world.port)).toBe('')
    }
    names.records.set('mixed.example.org', a('mixed.example.org', world.privateOne, world.publicOne))
    expect(await ask(network, 'A', 'mixed.example.org')).toEqual([world.publicOne])
  }
  // Unless the address itself is allowed.
  const lan = await take(context, { allow: ['*.example.org', `${world.privateOne}/32`] })
  expect(await ask(lan, 'A', 'r0.example.org')).toEqual([world.privateOne])
  expect(await ask(lan, 'A', 'r1.example.org')).toBe('ENODATA')
  expect(await reach(lan, world.privateOne, world.port)).toContain('tcp from')
})

test('there are no IPv6 addresses; other records of allowed names pass, over TCP when they are long', async (context) => {
  const text = Array.from({ length: 40 }, (_, index) => `${index} ${'x'.repeat(90)}`)
  names.records.set('example.org', [
    ...a('example.org', world.publicOne),
    { type: 'AAAA', name: 'example.org', ttl: 300, data: '2001:db8::1' },
    { type: 'MX', name: 'example.org', ttl: 300, data: { preference: 5, exchange: 'mail.example.org' } },
    ...text.map((data) => ({ type: 'TXT' as const, name: 'example.org', ttl: 300, data })),
  ])
  names.records.set('www.example.org', [
    { type: 'CNAME', name: 'www.example.org', ttl: 300, data: 'cdn.example.net' },
    ...a('cdn.example.net', world.publicTwo),
  ])
  const network = await take(context, { allow: ['example.org', 'www.example.org'] })
  expect(await ask(network, 'AAAA', 'example.org')).toBe('ENODATA')
  expect(await ask(network, 'MX', 'example.org')).toMatchObject([{ priority: 5, exchange: 'mail.example.org' }])
  expect(await ask(network, 'TXT', 'example.org')).toEqual(text.map((line) => [line]))
  expect(await ask(network, 'A', 'www.example.org')).toEqual([world.publicTwo])
  expect(await reach(network, world.publicTwo, world.port)).toContain('tcp from')
})

test('names are resolved for the tunnels of a sandbox by the same rules', async (context) => {
  names.records.set('example.org', a('example.org', world.publicOne))
  names.records.set('hidden.example.org', a('hidden.example.org', world.privateOne))
  const network = await take(context, { allow: ['example.org', 'hidden.example.org', world.publicTwo] })
  expect(await network.resolve('Example.org.')).toEqual([world.publicOne])
  expect(await reach(network, world.publicOne, world.port)).toContain('tcp from')
  expect(await network.resolve(world.publicTwo)).toEqual([world.publicTwo])
  for (const name of ['hidden.example.org', 'evil.org', world.privateOne, 'no name', ''])
    await expect(network.resolve(name)).rejects.toMatchObject({ code: 'port_closed' })
})

test('an address goes with the policy that let its name through', async (context) => {
  names.records.set('example.org', a('example.org', world.publicOne))
  names.records.set('example.net', a('example.net', world.publicTwo))
  const network = await take(context, { allow: ['example.org', 'example.net'] })
  for (const name of ['example.org', 'example.net']) await ask(network, 'A', name)
  await network.setPolicy({ allow: ['example.net'] })
  expect(await reach(network, world.publicOne, world.port)).toBe('')
  expect(await reach(network, world.publicTwo, world.port)).toContain('tcp from')
  expect(await ask(network, 'A', 'example.org')).toBe('ENOTFOUND')
})

test('what is no query has no answer, and harms nobody', async (context) => {
  names.records.set('example.org', a('example.org', world.publicOne))
  const network = await take(context, 'egress')
  const script = `const socket = require('dgram').createSocket('udp4', () => process.stdout.write('answer'))
    const junk = [Buffer.alloc(0), Buffer.alloc(11, 255), Buffer.alloc(1400, 192), Buffer.alloc(5), Buffer.from('000180000001000000000000', 'hex')]
    let left = 300
    const next = () => left-- > 0 ? socket.send(junk[left % junk.length], 53, process.argv[1], next) : setTimeout(() => process.exit(), 200)
    next()`
  expect((await runInside(network, [process.execPath, '-e', script, network.resolver])).output).toBe('')
  // More than the rate is dropped; another sandbox does not notice.
  const other = await take(context, 'egress')
  expect(await ask(other, 'A', 'example.org')).toEqual([world.publicOne])
  const tcp = `const socket = require('net').connect(53, process.argv[1]); socket.on('error', () => {});
    socket.on('close', () => console.log('closed')); socket.write(Buffer.alloc(4000, 255))`
  expect((await runInside(other, [process.execPath, '-e', tcp, other.resolver])).output).toBe('closed\n')
})

test('the resolver answers sandboxes only', async (context) => {
  names.records.set('example.org', a('example.org', world.publicOne))
  const network = await take(context, 'egress')
  const table = String(execFileSync('nft', ['list', 'ruleset']))
  const port = new RegExp(`dnat ip to ${network.resolver.replaceAll('.', '\\.')}:(\\d+)`).exec(table)?.[1]
  const script = `const { encode } = require('dns-packet')
    const socket = require('dgram').createSocket('udp4', () => { console.log('answer'); process.exit() })
    socket.send(encode({ type: 'query', id: 1, questions: [{ type: 'A', name: 'example.org' }] }), ${port}, '${network.resolver}')
    setTimeout(() => process.exit(), 500)`
  expect(String(execFileSync(process.execPath, ['-e', script], { cwd: import.meta.dirname }))).toBe('')
  expect(await ask(network, 'A', 'example.org')).toEqual([world.publicOne])
})
