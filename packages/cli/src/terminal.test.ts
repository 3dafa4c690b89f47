import { expect, test } from 'vitest'
import { type Column, formatTable, hasColor, isLive, safeLine } from './terminal.ts'

const CONFIG = {
  url: undefined,
  apiKey: undefined,
  dataDirectory: undefined,
  noColor: false,
  dumbTerminal: false,
  home: '/',
  isRoot: false,
}

const COLUMNS: Column<{ name: string; count: number }>[] = [
  { title: 'NAME', text: (row) => row.name },
  {
    title: 'COUNT',
    text: (row) => String(row.count),
    right: true,
    style: (row) => (row.count > 9 ? 'red' : undefined),
  },
  { title: 'AGAIN', text: (row) => row.name },
]

test('columns are as wide as their widest cell, numbers to the right, the last cut to the terminal', () => {
  const rows = [
    { name: 'a', count: 1 },
    { name: 'a longer name', count: 1234 },
  ]
  expect(formatTable(COLUMNS, rows, { color: false }).split('\n')).toEqual([
    'NAME           COUNT  AGAIN',
    'a                  1  a',
    'a longer name   1234  a longer name',
  ])
  expect(formatTable(COLUMNS, rows, { color: false, width: 28 }).split('\n')[2]).toBe('a longer name   1234  a lon…')
})

test('what is spare is left out where it is empty or where there is no room', () => {
  const columns: Column<{ a: string; b: string; c: string }>[] = [
    { title: 'A', text: ({ a }) => a },
    { title: 'B', text: ({ b }) => b, spare: 1 },
    { title: 'C', text: ({ c }) => c, spare: 2 },
    { title: 'EMPTY', text: () => '', spare: 0 },
    { title: 'LAST', text: ({ a }) => a.repeat(5) },
  ]
  const rows = [{ a: 'aaaaaaaa', b: 'bbbbbbbb', c: 'cccccccc' }]
  const headOf = (width?: number) => formatTable(columns, rows, { color: false, width }).split('\n')[0]?.split(/ +/)
  expect([headOf(), headOf(46), headOf(45), headOf(35)]).toEqual([
    ['A', 'B', 'C', 'LAST'],
    ['A', 'B', 'C', 'LAST'],
    ['A', 'B', 'LAST'],
    ['A', 'LAST'],
  ])
  const [, line = ''] = formatTable(columns, rows, { color: false, width: 20 }).split('\n')
  expect(line).toBe('aaaaaaaa  aaaaaaaaa…')
})

test('colour is used only where it is asked for', () => {
  const rows = [{ name: 'x', count: 10 }]
  expect(formatTable(COLUMNS, rows, { color: false })).not.toContain('\u001b')
  expect(formatTable(COLUMNS, rows, { color: true })).toContain('\u001b[31m')
  expect(hasColor({ isTTY: true }, CONFIG)).toBe(true)
  expect(hasColor({ isTTY: false }, CONFIG)).toBe(false)
  expect(hasColor({ isTTY: true }, { ...CONFIG, noColor: true })).toBe(false)
  expect(isLive({ isTTY: true }, { ...CONFIG, noColor: true })).toBe(true)
  expect(isLive({ isTTY: true }, { ...CONFIG, dumbTerminal: true })).toBe(false)
})

test('text of others cannot steer the terminal: no escapes, no second line, no reversed reading', () => {
  expect(safeLine('a\u001b]0;title\u0007b\r\nc\u009b2Jd\u202ee')).toBe('a·]0;title·b c·2Jd·e')
})
