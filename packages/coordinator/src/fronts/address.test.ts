import { expect, test } from 'vitest'
import { addressOf, clientOf, subnetOf } from './address.ts'

const from = (remoteAddress: string, forwarded?: string) =>
  ({ socket: { remoteAddress }, headers: forwarded === undefined ? {} : { 'x-forwarded-for': forwarded } }) as never

test.each([
  ['192.0.2.7', '192.0.2.0/24', '192.0.2.7'],
  ['2001:db8:1:2:3::4', '2001:db8:1::/48', '2001:db8:1:2::/64'],
  ['2001:db8::1', '2001:db8:0::/48', '2001:db8:0:0::/64'],
  ['::1', '0:0:0::/48', '0:0:0:0::/64'],
])('%s is of the subnet %s and the client %s', (address, subnet, client) => {
  expect([subnetOf(address), clientOf(address)]).toEqual([subnet, client])
})

test.each([
  ['nobody is believed who is not named', [], '192.0.2.1', '10.0.0.1', '192.0.2.1'],
  ['a proxy says who asked it', ['10.0.0.0/8'], '10.1.2.3', '192.0.2.9', '192.0.2.9'],
  ['as an IPv4 address in IPv6', ['10.0.0.0/8'], '::ffff:10.1.2.3', '192.0.2.9', '192.0.2.9'],
  ['two of them, from right to left', ['10.0.0.0/8'], '10.0.0.1', '192.0.2.9, 10.0.0.2', '192.0.2.9'],
  ['what a client wrote itself is further left', ['10.0.0.0/8'], '10.0.0.1', '1.1.1.1, 192.0.2.9', '192.0.2.9'],
  ['a proxy that says nothing', ['10.0.0.0/8'], '10.0.0.1', undefined, '10.0.0.1'],
  ['a proxy that says nonsense', ['10.0.0.0/8'], '10.0.0.1', 'unknown', '10.0.0.1'],
  ['an IPv6 proxy', ['fd00::/8'], 'fd00::1', '2001:db8::5', '2001:db8::5'],
])('%s', (_what, trusted, remote, forwarded, expected) => {
  expect(addressOf(trusted)(from(remote, forwarded))).toBe(expected)
})

test('a network that is none is refused', () => {
  expect(() => addressOf(['10.0.0.0/33'])).toThrow(expect.objectContaining({ code: 'invalid_request' }))
})
