import { once } from 'node:events'
import { createServer, type Server } from 'node:net'
import { networkInterfaces } from 'node:os'
import type { Instance, InstanceSpecInput } from '@bramble/protocol'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { connectStream } from './live-socket.ts'
import { openSshUser } from './live-ssh.ts'

const SERVED = 'served by the host'
/** What answers nothing is waited for so long, in seconds. */
const PATIENCE = 1

let node: LiveNode
let skip: string | undefined
let noNetwork: string | undefined
let a = ''
let b = ''
let one: Instance
let two: Instance
/** A service on every address of the host. */
let service: Server
let servicePort = 0
let addressOfTwo = ''
let gateway = ''

const hostAddress = (): string =>
  Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .find(({ family, internal, address }) => family === 'IPv4' && !internal && !address.startsWith('100.'))?.address ??
  ''

beforeAll(async () => {
  const opened = await openLiveNode()
  if ('skip' in opened) {
    skip = opened.skip
    return
  }
  node = opened
  a = (await node.newKey({ tenant: 'a' })).key
  b = (await node.newKey({ tenant: 'b' })).key
  service = createServer((socket) => socket.on('error', () => {}).end(SERVED)).listen(0, '0.0.0.0')
  await once(service, 'listening')
  servicePort = (service.address() as { port: number }).port
  const made = await Promise.all([startWithNetwork('egress', a), startWithNetwork('egress', b)])
  const [first, second] = made
  if (!first || !second) return
  one = first
  two = second
  addressOfTwo = (await node.sh(two.id, "ip -4 -o addr show eth0 | sed 's/.*inet //; s/ .*//; s,/.*,,'", b)).trim()
  gateway = (await node.sh(one.id, "sed -n 's/nameserver //p' /etc/resolv.conf", a)).trim()
  await node.sh(two.id, `mkdir /www; echo '${SERVED}' > /www/index.html; httpd -p 7000 -h /www`, b)
})
afterAll(async () => {
  service?.close()
  await node?.[Symbol.asyncDispose]()
})
beforeEach(({ skip: skipTest }) => {
  if (skip !== undefined) skipTest(skip)
})

const startWithNetwork = async (network: InstanceSpecInput['network'], key: string): Promise<Instance | undefined> => {
  const answer = await node.ask('POST', '/api/v1/instances', { key, json: { network } })
  if (answer.status === 201) return answer.json()
  expect(answer.code).toBe('unsupported')
  noNetwork = answer.json<{ detail: string }>().detail
  return undefined
}

/** What comes from an address when the sandbox connects to it. */
const fetched = (ref: string, key: string, address: string, port: number): Promise<string> =>
  node.sh(ref, `timeout ${PATIENCE} nc ${address} ${port} </dev/null 2>/dev/null; true`, key)
const served = (ref: string, key: string, address: string, port: number): Promise<string> =>
  node.sh(ref, `timeout ${PATIENCE} wget -q -O - http://${address}:${port}/ 2>/dev/null; true`, key)

describe('over networks', () => {
  beforeEach(({ skip: skipTest }) => {
    if (noNetwork !== undefined) skipTest(noNetwork)
  })
  const NOWHERE = (): [string, number][] => [
    [hostAddress(), servicePort],
    [hostAddress(), node.port],
    [hostAddress(), node.sshPort],
    ['127.0.0.1', node.port],
    ['127.0.0.1', servicePort],
    ['0.0.0.0', servicePort],
    [gateway, servicePort],
    [gateway, node.port],
    [gateway, 53],
    ['169.254.169.254', 80],
    ['169.254.169.253', 53],
    ['100.100.100.200', 80],
    [addressOfTwo, 7000],
  ]

  test('a sandbox with egress reaches neither its neighbour, nor the host, nor what is the cloud’s', async () => {
    expect(await served(two.id, b, '127.0.0.1', 7000)).toBe(`${SERVED}\n`)
    // Those that are allowed to: so the ways that are tried below do lead there.
    const friend = await startWithNetwork({ allow: [hostAddress()] }, a)
    expect(await fetched(friend?.id ?? '', a, hostAddress(), servicePort)).toBe(SERVED)
    const open = await startWithNetwork({ allow: ['0.0.0.0/0', addressOfTwo] }, a)
    for (const { id } of [one, open ?? one])
      expect(
        await Promise.all(
          NOWHERE().map(([address, port]) => fetched(id, a, address, port).then((text) => [address, port, text])),
        ),
      ).toEqual(NOWHERE().map(([address, port]) => [address, port, '']))
    expect(await served(open?.id ?? '', a, addressOfTwo, 7000)).toBe('')
    expect(await node.sh(one.id, `ping -c 1 -W ${PATIENCE} ${addressOfTwo} > /dev/null 2>&1; echo $?`, a)).toBe('1\n')
    expect(await node.sh(one.id, `ping -c 1 -W ${PATIENCE} ${hostAddress()} > /dev/null 2>&1; echo $?`, a)).toBe('1\n')
  })

  test('nor by taking its address, by a route or by the neighbour’s resolver', async () => {
    const tried = await node.sh(
      one.id,
      `ip addr add ${addressOfTwo}/32 dev eth0; ip route add ${addressOfTwo} dev eth0; ip link set eth0 arp on; ` +
        `echo tried; timeout ${PATIENCE} wget -q -O - http://${addressOfTwo}:7000/; ` +
        `timeout ${PATIENCE} nc ${hostAddress()} ${servicePort} < /dev/null; ip addr del ${addressOfTwo}/32 dev eth0; true`,
      a,
    )
    expect(tried).toBe('tried\n')
    // Names that lead where addresses do not.
    const names = await node.sh(
      one.id,
      `for n in localhost.localdomain metadata.google.internal host.docker.internal two.internal; do nslookup $n ${gateway}; done 2>&1; true`,
      a,
    )
    expect(names.replaceAll(gateway, '')).not.toMatch(/Address.*(127\.|10\.|169\.254\.|192\.168\.)/)
    expect(await served(two.id, b, '127.0.0.1', 7000)).toBe(`${SERVED}\n`)
  })

  test('nor by the tunnels of the node: SSH forwards from within the sandbox', async () => {
    const user = await openSshUser(node.sshPort)
    await node.ask('POST', '/api/v1/ssh-keys', { key: a, json: { name: 'a', publicKey: user.publicKey } })
    const through = (address: string, port: number) => user.ssh(['-W', `${address}:${port}`, `${one.id}@127.0.0.1`])
    await node.sh(one.id, 'mkdir -p /www; echo own > /www/index.html; httpd -p 7001 -h /www', a)
    const own = await user.ssh(['-W', 'localhost:7001', `${one.id}@127.0.0.1`], { input: 'GET / HTTP/1.0\r\n\r\n' })
    expect(own.stdout).toContain('own')
    for (const [address, port] of [
      [hostAddress(), servicePort],
      ['127.0.0.1', node.port],
      ['localhost', servicePort],
      [gateway, servicePort],
      [addressOfTwo, 7000],
    ] as const) {
      const { code, stdout } = await Promise.race([
        through(address, port),
        // What is dropped without an answer: the node gives up by itself, later than this test waits.
        new Promise<{ code: number; stdout: string }>((resolve) =>
          setTimeout(resolve, 1500, { code: 255, stdout: '' }),
        ),
      ])
      expect([address, port, code, stdout]).toEqual([address, port, 255, ''])
    }
  })
})

describe('on one kernel', () => {
  test('abstract sockets, shared memory, processes and keys are each sandbox’s own', async () => {
    const [left, right] = await Promise.all([node.start({}, a), node.start({}, b)])
    await node.sh(left.id, 'echo left > /dev/shm/mark; echo left > /tmp/mark', a)
    using stream = await connectStream(node, left.id, { key: a, query: 'processes=false' })
    stream.send({ type: 'exec', id: 'secret', command: ['sleep', '98765'], env: { SECRET: 'of the left' } })
    await stream.event('started')
    const seen = await node.sh(
      right.id,
      `ls -A /dev/shm /tmp; cat /proc/*/cmdline | tr '\\0' ' '; cat /proc/*/environ 2>/dev/null | tr '\\0' ' '; ` +
        `cat /proc/net/unix; cat /proc/sysvipc/shm /proc/keys 2>/dev/null; hostname; ls /proc/1/root/ /proc/1/cwd/ 2>&1; true`,
      b,
    )
    expect(seen).not.toMatch(/98765|of the left|mark|bramble-node/)
    // The sockets that it sees are its own agent's.
    expect(seen).not.toContain(node.dataDirectory)
  })

  test('an event goes to the instance it was emitted in, and to no other', async () => {
    const [left, right] = await Promise.all([node.start({}, a), node.start({}, b)])
    using theirs = await connectStream(node, left.id, { key: a })
    using own = await connectStream(node, right.id, { key: b })
    await node.sh(right.id, `/.bramble/bramble-emit mark '{"from":"right"}'`, b)
    await own.event('custom', ({ name }) => name === 'mark')
    await node.sh(left.id, `/.bramble/bramble-emit mark '{"from":"left"}'`, a)
    expect(await theirs.event('custom')).toMatchObject({ name: 'mark', data: { from: 'left' } })
    own.send({ type: 'get_state' })
    await own.until(() => own.messages.filter(({ type }) => type === 'state').length === 2)
    expect(own.messages.filter(({ type }) => type === 'custom')).toHaveLength(1)
  })
})
