import { expect, test } from 'vitest'
import { formatAge, formatBytes, formatCommand, formatMs } from './format.ts'

test('quantities as people read them', () => {
  expect([0, 1023, 1536, 200 * 1024, 5 * 1024 ** 3].map(formatBytes)).toEqual([
    '0 B',
    '1023 B',
    '1.5 KiB',
    '200 KiB',
    '5.0 GiB',
  ])
  expect([3.4, 3200, 312_000, 7_380_000, 352_800_000].map(formatMs)).toEqual([
    '3 ms',
    '3.2 s',
    '5m12s',
    '2h03m',
    '4d02h',
  ])
  expect(formatAge('2026-01-01T00:00:00Z', Date.parse('2026-01-01T00:05:12Z'))).toBe('5m12s ago')
})

test('a command is shown as one would type it', () => {
  expect(formatCommand('echo a | wc')).toBe('echo a | wc')
  expect(formatCommand(['sh', '-c', "it's a line", ''])).toBe("sh -c 'it'\\''s a line' ''")
})
