import type { RouteClaims } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { createIdentity, generateSecretKey, nobleCurve, readRouteToken, signRouteToken } from './index.ts'

const network = createIdentity(generateSecretKey(), nobleCurve)
const claims: RouteClaims = {
  network: `0x${'0a'.repeat(32)}`,
  node: network.id,
  tenant: 'default',
  instance: 'box',
  scopes: ['execute'],
  expiresAtMs: 1000,
}
const token = signRouteToken(network, claims)
const read = (text: string, nowMs = 999, key = network.publicKey) => readRouteToken(text, key, nobleCurve, nowMs)
const refused = expect.objectContaining({ code: 'unauthorized' })

test('a token says what was signed, until it expires', () => {
  expect(read(token)).toEqual(claims)
  expect(() => read(token, 1000)).toThrow(refused)
})

test('a token of another key, or of other claims, is refused', () => {
  const stranger = createIdentity(generateSecretKey(), nobleCurve)
  expect(() => read(token, 999, stranger.publicKey)).toThrow(refused)
  const [, signature] = token.split('.')
  const [payload] = signRouteToken(stranger, { ...claims, scopes: ['admin'] }).split('.')
  expect(() => read(`${payload}.${signature}`)).toThrow(refused)
})

test('claims that are signed and not known are refused', () => {
  const signed = signRouteToken(network, { ...claims, more: true } as RouteClaims)
  expect(() => read(signed)).toThrow(refused)
})

test('whatever is no token is refused', () => {
  const wrong = [
    '',
    '.',
    token.slice(0, -1),
    `${token}A`,
    `${token}.`,
    token.replace('.', ''),
    token.replace('bramble_route_', ''),
    `.${token}`,
    'x'.repeat(1e6),
  ]
  for (const text of wrong) expect(() => read(text), text.slice(0, 40)).toThrow(refused)
})
