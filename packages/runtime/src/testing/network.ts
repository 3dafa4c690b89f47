import { once } from 'node:events'
import { createServer } from 'node:net'
import { networkInterfaces } from 'node:os'
import { newId } from '@bramble/protocol'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { Sandbox } from '../runtime.ts'
import { endOf, outputOf, runCommand } from './run-command.ts'
import { configOf, type Fixture, skip } from './subject.ts'

/** Addresses of the host that are not loopback, its ends of other sandboxes' links left out. */
const hostAddresses = (): string[] =>
  Object.entries(networkInterfaces())
    .filter(([name]) => !/^br[0-9a-f]{7}-/.test(name))
    .flatMap(([, addresses]) => addresses ?? [])
    .flatMap(({ family, internal, address }) => (family === 'IPv4' && !internal ? [address] : []))

const openService = async (): Promise<number> => {
  const server = createServer((socket) => socket.end('the host\n').on('error', () => {})).listen(0, '0.0.0.0')
  onTestFinished(() => void server.close())
  await once(server, 'listening')
  return (server.address() as { port: number }).port
}

const reach = async (sandbox: Sandbox, address: string, port: number): Promise<string> =>
  (await runCommand(sandbox, `nc -w 1 ${address} ${port} </dev/null`)).stdout.toString()

/** Starts a server in the sandbox, on every address of it, and asks it over loopback. */
const serve = (sandbox: Sandbox): Promise<string> =>
  outputOf(sandbox, 'httpd -p 4000 -h /etc && wget -q -O - http://127.0.0.1:4000/variant')

const gatewayOf = async (sandbox: Sandbox): Promise<string> =>
  (await outputOf(sandbox, "ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'")).trim()

/** Networks of sandboxes, for drivers that offer more than none. What lies beyond the host is not needed. */
export const testNetwork = (subject: Fixture): void => {
  const offering: (wanted: 'egress' | 'allow') => Fixture = (wanted) => (context) => {
    const opened = subject(context)
    const { isolation, network } = opened.runtime.capabilities
    if (isolation === 'none') skip(context, 'the driver isolates nothing')
    if (!network.includes(wanted)) skip(context, `the driver does not offer ${wanted}`)
    return opened
  }

  describe('network', () => {
    test('without one, a sandbox reaches its own servers on loopback', async (context) => {
      const { runtime, ...rest } = subject(context)
      if (runtime.capabilities.isolation === 'none') skip(context, 'the driver isolates nothing')
      await using sandbox = await runtime.create(configOf(rest))
      expect(await serve(sandbox)).toBe('plain\n')
    })

    test('a sandbox with a network has an address, a route, a resolver and a name', async (context) => {
      const { runtime, ...rest } = offering('egress')(context)
      await using sandbox = await runtime.create({ ...configOf(rest, { hostname: 'machine' }), network: 'egress' })
      expect(await outputOf(sandbox, 'cat /etc/resolv.conf')).toMatch(/^nameserver \d+\.\d+\.\d+\.\d+\n$/)
      expect(await gatewayOf(sandbox)).not.toBe('')
      expect(await outputOf(sandbox, 'cat /etc/hosts')).toMatch(/^127\.0\.0\.1 localhost\n127\.0\.1\.1 machine\n$/)
      expect(await endOf(sandbox, 'echo "10.1.1.1 other" >> /etc/hosts; rm /etc/resolv.conf')).toBe(0)
      // No IPv6.
      expect(await outputOf(sandbox, 'cat /proc/net/if_inet6 | grep -v " lo$" | wc -l')).toBe('0\n')
    })

    test('the host is out of reach of egress, and in reach of those that name it', async (context) => {
      const { runtime, ...rest } = offering('allow')(context)
      const [address = ''] = hostAddresses()
      if (address === '') skip(context, 'the host has no address but loopback')
      const port = await openService()
      await using named = await runtime.create({ ...configOf(rest), network: { allow: [address] } })
      expect(await reach(named, address, port)).toBe('the host\n')
      for (const network of ['egress' as const, { allow: ['0.0.0.0/0'] }]) {
        await using sandbox = await runtime.create({ ...configOf(rest), network })
        for (const tried of [...hostAddresses(), await gatewayOf(sandbox), '127.0.0.1', '169.254.169.254'])
          expect(await reach(sandbox, tried, port)).toBe('')
      }
    })

    test('sandboxes do not reach each other', async (context) => {
      const { runtime, ...rest } = offering('allow')(context)
      await using one = await runtime.create({ ...configOf(rest), network: 'egress' })
      const address = (await outputOf(one, "ip -4 addr show eth0 | sed -n 's/.*inet \\([0-9.]*\\).*/\\1/p'")).trim()
      await using two = await runtime.create({ ...configOf(rest), network: { allow: [address, '0.0.0.0/0'] } })
      expect(await serve(one)).toBe('plain\n')
      expect(await endOf(two, `wget -q -T 1 -O - http://${address}:4000/variant`)).not.toBe(0)
    })

    test('names that are not allowed do not exist', async (context) => {
      const { runtime, ...rest } = offering('allow')(context)
      await using sandbox = await runtime.create({ ...configOf(rest), network: { allow: ['example.org'] } })
      expect((await runCommand(sandbox, 'nslookup example.net')).stdout.toString()).toMatch(/NXDOMAIN/)
    })

    test('traffic is counted', async (context) => {
      const { runtime, ...rest } = offering('allow')(context)
      await using none = await runtime.create(configOf(rest))
      await using sandbox = await runtime.create({ ...configOf(rest), network: 'egress' })
      for (const each of [none, sandbox]) expect(await each.stats()).toMatchObject({ egressBytes: 0, ingressBytes: 0 })
    })

    test('a kept sandbox has its network again', async (context) => {
      const { openFresh, ...rest } = offering('allow')(context)
      if (!rest.runtime.capabilities.keep) skip(context, 'the driver keeps no sandboxes')
      const [address = ''] = hostAddresses()
      if (address === '') skip(context, 'the host has no address but loopback')
      const port = await openService()
      const fresh = await openFresh()
      const config = { ...configOf(rest, { layer: newId('instance') }), network: { allow: [address] } }
      const before = await fresh.runtime.create(config)
      expect(await reach(before, address, port)).toBe('the host\n')
      await fresh.runtime.close()
      await using runtime = await (fresh.reopen ?? fresh.restart)()
      const sandbox = await runtime.attach(config)
      await runtime.reap(new Set([config.id]))
      expect(await reach(sandbox, address, port)).toBe('the host\n')
      await sandbox.destroy()
    })
  })
}
