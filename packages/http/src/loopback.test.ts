import { expect, test } from 'vitest'
import { hostInUrl, isLoopback } from './loopback.ts'

test.each(['127.0.0.1', '127.9.9.9', '::1', 'localhost', 'LOCALHOST', 'x.localhost', '::ffff:127.0.0.1'])(
  '%s is this machine',
  (host) => expect(isLoopback(host)).toBe(true),
)

test.each(['0.0.0.0', '::', '10.0.0.1', 'example.com', '127.0.0.1.example.com', 'localhost.example.com', ''])(
  '%s is not',
  (host) => expect(isLoopback(host)).toBe(false),
)

test('an IPv6 address has brackets in a URL', () => {
  expect(hostInUrl('::1')).toBe('[::1]')
  expect(hostInUrl('127.0.0.1')).toBe('127.0.0.1')
})
