import { inspect } from 'node:util'
import { expect, test } from 'vitest'
import { parseObjectStoreUrl } from './s3-url.ts'

const secret = 'very/secret+key='
const whole = `s3://bucket/a/b/?${new URLSearchParams({
  endpoint: 'http://127.0.0.1:9000/',
  region: 'eu-1',
  accessKeyId: 'id',
  secretAccessKey: secret,
  sessionToken: 'token',
})}`

test('a URL says all', () => {
  const { credentials, ...location } = parseObjectStoreUrl(whole, { AWS_REGION: 'other' })
  expect(location).toEqual({
    bucket: 'bucket',
    prefix: 'a/b',
    endpoint: 'http://127.0.0.1:9000',
    region: 'eu-1',
    pathStyle: true,
    label: 's3://bucket/a/b at http://127.0.0.1:9000',
  })
  expect(credentials()).toEqual({ accessKeyId: 'id', secretAccessKey: secret, sessionToken: 'token' })
})

test('what it does not say comes from the usual environment', () => {
  expect(parseObjectStoreUrl('s3://bucket', {})).toMatchObject({
    prefix: '',
    endpoint: undefined,
    region: undefined,
    pathStyle: false,
    label: 's3://bucket',
  })
  const env = {
    AWS_ENDPOINT_URL: 'https://other',
    AWS_ENDPOINT_URL_S3: 'https://s3.example',
    AWS_DEFAULT_REGION: 'r-1',
  }
  const location = parseObjectStoreUrl('s3://bucket/p?pathStyle=false', env)
  expect(location).toMatchObject({ endpoint: 'https://s3.example', region: 'r-1', pathStyle: false })
  expect(location.credentials()).toBeUndefined()
})

test('it prints no secret', () => {
  const location = parseObjectStoreUrl(whole, {})
  expect(inspect(location, { depth: 9, showHidden: true }) + JSON.stringify(location)).not.toContain('secret')
})

for (const url of [
  'http://bucket/prefix',
  's3:bucket',
  's3://',
  's3://b',
  's3://id:very-secret@bucket/prefix',
  's3://bucket/../other',
  's3://bucket/a//b',
  's3://bucket/sp ace',
  's3://bucket/a%2fb',
  's3://bucket?endpoint=ftp://x',
  's3://bucket?endpoint=http://user:very-secret@host',
  's3://bucket?endpoint=nonsense',
  's3://bucket?secretAccessKey=very-secret',
  's3://bucket?accessKeyId=id&secretAccessKey=very-secret&accessKeyId=very-secret',
  's3://bucket?secretaccesskey=very-secret',
  's3://bucket?region=very-secret/..',
  's3://bucket?pathStyle=very-secret',
  `s3://bucket/${'x'.repeat(300)}`,
])
  test(`${url.slice(0, 60)} is refused, and what it holds not told`, () => {
    let refused: unknown
    try {
      parseObjectStoreUrl(url, {})
    } catch (thrown) {
      refused = thrown
    }
    expect(refused).toMatchObject({ code: 'invalid_request' })
    expect(inspect(refused, { depth: 9 })).not.toMatch(/very-secret|very%2fsecret/)
  })
