import { expect, test } from 'vitest'
import { filePathOf, queryPathOf, withoutFilePath } from './url-bytes.ts'

const FILES = '/api/v1/instances/box/files'

test.for<[string, string]>([
  ['/etc/passwd', '/etc/passwd'],
  ['/a%20b+c', '/a b+c'],
  ['/%ff%FE', '/\xff\xfe'],
  ['/%2e%2e/%2F', '/..//'],
  ['/..%2f../x?mode=1', '/../../x'],
  ['/', '/'],
  ['/é', '/é'],
])('the path of %s', ([rest, path]) => {
  expect(filePathOf(FILES + rest).toString('latin1')).toBe(path)
})

test.for(['/a%', '/a%2', '/a%zz', '/a%00b', `/${'x'.repeat(4095)}`])('%s is none', (rest) => {
  expect(() => filePathOf(FILES + rest)).toThrow(expect.objectContaining({ code: 'invalid_request' }))
})

test('paths in a query are bytes too, given once', () => {
  const url = `${FILES}?list=/a%FF+b&user=root&to=x&to=y`
  expect(queryPathOf(url, 'list')?.toString('latin1')).toBe('/a\xff b')
  expect(queryPathOf(url, 'to')).toBeUndefined()
  expect(queryPathOf(url, 'move')).toBeUndefined()
  expect(() => queryPathOf(`${FILES}?list=`, 'list')).toThrow(expect.objectContaining({ code: 'invalid_request' }))
})

test('the router sees no path of a sandbox, and nothing else changes', () => {
  expect(withoutFilePath(`${FILES}/a/%FF?x=1`)).toBe(`${FILES}/-?x=1`)
  for (const url of [FILES, `${FILES}?list=/a`, '/api/v1/instances/box', '/p/box/80/api/v1/instances/box/files/x'])
    expect(withoutFilePath(url)).toBe(url)
})
