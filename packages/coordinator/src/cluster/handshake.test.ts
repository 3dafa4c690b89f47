import { describe, expect, test } from 'vitest'
import { answerChallenge, challenge } from './handshake.ts'

const secret = new Uint8Array(32).fill(1)
const other = new Uint8Array(32).fill(2)

describe('the handshake of a link', () => {
  test('gives both ends one key, another one each time', () => {
    const keys = [1, 2].map(() => {
      const writer = challenge(secret)
      const asker = answerChallenge(secret, 'one', writer.text)
      const welcome = writer.welcome(asker.text)
      expect(welcome.name).toBe('one')
      expect(asker.accept(welcome.text)).toEqual(welcome.key)
      return Buffer.from(welcome.key).toString('hex')
    })
    expect(keys[0]).not.toBe(keys[1])
    expect(keys[0]).toHaveLength(64)
  })

  test('refuses one that has not the secret, on either side', () => {
    const writer = challenge(secret)
    const stranger = answerChallenge(other, 'one', writer.text)
    expect(() => writer.welcome(stranger.text)).toThrow(expect.objectContaining({ code: 'unauthorized' }))
    const impostor = challenge(other)
    const asker = answerChallenge(secret, 'one', impostor.text)
    const { text } = challenge(other)
    const answered = answerChallenge(other, 'x', text)
    expect(() => impostor.welcome(asker.text)).toThrow(expect.objectContaining({ code: 'unauthorized' }))
    expect(() => asker.accept(JSON.stringify({ code: JSON.parse(answered.text).code }))).toThrow(
      expect.objectContaining({ code: 'unauthorized' }),
    )
  })

  test('refuses what was recorded, sent back or renamed', () => {
    const first = challenge(secret)
    const asker = answerChallenge(secret, 'one', first.text)
    const welcome = first.welcome(asker.text)
    const second = challenge(secret)
    expect(() => second.welcome(asker.text)).toThrow(expect.objectContaining({ code: 'unauthorized' }))
    const again = answerChallenge(secret, 'one', second.text)
    expect(() => again.accept(welcome.text)).toThrow(expect.objectContaining({ code: 'unauthorized' }))
    const { code } = JSON.parse(again.text)
    expect(() => again.accept(JSON.stringify({ code }))).toThrow(expect.objectContaining({ code: 'unauthorized' }))
    const renamed = JSON.stringify({ ...JSON.parse(again.text), name: 'two' })
    expect(() => second.welcome(renamed)).toThrow(expect.objectContaining({ code: 'unauthorized' }))
  })

  test.each(['', '{}', 'null', '[1]', '{"version":2,"nonce":"00"}', '\u0000'])('refuses %j', (text) => {
    const refused = expect.objectContaining({ code: 'bad_response' })
    expect(() => challenge(secret).welcome(text)).toThrow(refused)
    expect(() => answerChallenge(secret, 'one', text)).toThrow(refused)
    const asker = answerChallenge(secret, 'one', challenge(secret).text)
    expect(() => asker.accept(text)).toThrow(refused)
  })
})
