import { expect, test } from 'vitest'
import { collectLabels, collectPairs, parseDuration, parseInteger, parseMegabytes, parseNumber } from './parse-value.ts'

test('times are in milliseconds; a number alone is seconds', () => {
  expect(['500ms', '30s', '1.5m', '2h', '7d', '10'].map(parseDuration)).toEqual([
    500, 30_000, 90_000, 7_200_000, 604_800_000, 10_000,
  ])
})

test('sizes are in MiB', () => {
  expect(['512', '512m', '2g', '1.5GiB', '64MB'].map(parseMegabytes)).toEqual([512, 512, 2048, 1536, 64])
})

test('pairs keep everything after the first equals sign; labels need none', () => {
  expect(collectPairs('B=2=3', collectPairs('A='))).toEqual({ A: '', B: '2=3' })
  expect(collectLabels('plain', collectLabels('a=b'))).toEqual({ a: 'b', plain: '' })
})

test.each([
  [parseDuration, ['', 'soon', '-1s', '1w', '1 s']],
  [parseMegabytes, ['', 'lots', '1t', '-5', '1e3']],
  [parseNumber, ['', ' ', 'x', '-1', 'Infinity']],
  [parseInteger, ['', '1.5', '-1', '1e3', '0x10']],
  [collectPairs, ['', '=x', 'x']],
] as [(text: string) => unknown, string[]][])('%o refuses what it cannot read', (parse, texts) => {
  for (const text of texts) expect(() => parse(text)).toThrow()
})
