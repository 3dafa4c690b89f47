import { expect, test } from 'vitest'
import { isReserved, overlaps, parseAddress, parseCidr } from './addresses.ts'
import { canonicalName, parsePolicy, permitsAddress, permitsName } from './policy.ts'

const cidr = (text: string) => parseCidr(text) ?? { base: -1, prefix: -1 }
const address = (text: string) => parseAddress(text) ?? -1

test('addresses and ranges are read strictly', () => {
  expect(cidr('203.0.113.77/24')).toEqual(cidr('203.0.113.0/24'))
  expect(cidr('255.255.255.255')).toEqual({ base: 0xffff_ffff, prefix: 32 })
  for (const text of [
    '203.0.113.0/33',
    '203.0.113',
    '0x7f.1',
    '010.0.0.1',
    '1.2.3.4/',
    '1.2.3.4/-1',
    '1.2.3.4 ',
    '::1',
  ])
    expect(parseCidr(text)).toBeUndefined()
  expect(overlaps(cidr('10.0.0.0/8'), cidr('10.255.255.255'))).toBe(true)
  expect(overlaps(cidr('10.0.0.0/8'), cidr('11.0.0.0/8'))).toBe(false)
  for (const text of ['0.0.0.1', '10.1.2.3', '100.64.0.1', '127.0.0.1', '169.254.169.254', '172.31.0.1', '192.168.0.1'])
    expect(isReserved(address(text))).toBe(true)
  for (const text of ['198.19.255.255', '192.0.0.192', '168.63.129.16', '224.0.0.1', '255.255.255.255'])
    expect(isReserved(address(text))).toBe(true)
  for (const text of ['1.1.1.1', '172.32.0.1', '100.128.0.1', '192.0.2.1', '198.20.0.1', '223.255.255.255'])
    expect(isReserved(address(text))).toBe(false)
})

test('names are compared in one form, and patterns stand for what is below them', () => {
  expect(canonicalName('EXAMPLE.org.')).toBe('example.org')
  expect(canonicalName('bücher.example')).toBe('xn--bcher-kva.example')
  for (const text of ['', '.', 'a..b', '-a.org', 'a b', `${'a'.repeat(64)}.org`, 'a.org\0', `${'a.'.repeat(127)}org`])
    expect(canonicalName(text)).toBeUndefined()
  const rules = parsePolicy({ allow: ['example.org', '*.sub.example.net', '203.0.113.0/24'] })
  for (const name of ['example.org', 'a.sub.example.net', 'b.a.sub.example.net'])
    expect(permitsName(rules, name)).toBe(true)
  for (const name of ['www.example.org', 'sub.example.net', 'xsub.example.net', 'example.net', 'org', ''])
    expect(permitsName(rules, name)).toBe(false)
})

test('what no sandbox may reach cannot be asked for', () => {
  const refused = ['127.0.0.1', '127.1.2.0/24', '0.0.0.0', '224.0.0.0/8', '255.255.255.255', '169.254.0.0/16', '::1']
  for (const entry of [
    ...refused,
    '2001:db8::/32',
    '1.2.3.4/33',
    '1.2.3',
    '*.*.org',
    '*',
    'http://example.org',
    'a/b',
    '',
  ])
    expect(() => parsePolicy({ allow: [entry] })).toThrow(expect.objectContaining({ code: 'invalid_request' }))
  const rules = parsePolicy({ allow: ['0.0.0.0/0', '169.254.169.254'] })
  expect(permitsAddress(rules, address('169.254.169.254'))).toBe(true)
  expect(permitsAddress(rules, address('10.1.2.3'))).toBe(true)
  for (const text of ['169.254.169.253', '127.0.0.1', '224.0.0.1'])
    expect(permitsAddress(rules, address(text))).toBe(false)
  expect(permitsAddress(parsePolicy('egress'), address('10.1.2.3'))).toBe(false)
  expect(permitsAddress(parsePolicy('none'), address('1.1.1.1'))).toBe(false)
})
