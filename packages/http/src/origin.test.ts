import { expect, test } from 'vitest'
import { isOriginAllowed } from './origin.ts'

test.for<[string | undefined, string, readonly string[], boolean]>([
  [undefined, 'localhost:8080', [], true],
  ['http://localhost:8080', 'localhost:8080', [], true],
  ['https://node.example', 'node.example', [], true],
  ['https://node.example', 'node.example:443', [], true],
  ['http://localhost:3000', 'localhost:8080', [], false],
  ['http://127.0.0.1:8080', 'localhost:8080', [], false],
  ['https://evil.example', 'node.example', [], false],
  ['https://app.example', 'node.example', ['https://app.example'], true],
  ['https://other.example', 'node.example', ['https://app.example'], false],
  ['https://any.example', 'node.example', ['*'], true],
  ['null', 'node.example', [], false],
  ['nonsense', 'node.example', [], false],
])('a page of %s at %s', ([origin, host, allowed, expected]) => {
  const headers = { host, ...(origin !== undefined && { origin }) }
  expect(isOriginAllowed(allowed, { headers })).toBe(expected)
})
