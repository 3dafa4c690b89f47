import { expect, test } from 'vitest'
import { readNodeConfig } from './node-config.ts'

test('defaults are those of the documents', () => {
  expect(readNodeConfig({}, '/data', {})).toEqual({
    dataDirectory: '/data',
    host: '127.0.0.1',
    port: 8080,
    domain: 'localhost',
    runtime: 'auto',
    noIsolation: false,
    logLevel: 'info',
    shutdownGraceMs: 10_000,
  })
})

test('flags win over the environment, and an empty variable is none', () => {
  const env = { BRAMBLE_PORT: '1', BRAMBLE_HOST: '::1', BRAMBLE_RUNTIME: '', BRAMBLE_DATA_DIR: '/env' }
  expect(readNodeConfig({ port: '2' }, '/data', env)).toMatchObject({ port: 2, host: '::1', runtime: 'auto' })
  expect(readNodeConfig({ dataDir: '/flag' }, '/data', env).dataDirectory).toBe('/flag')
  expect(readNodeConfig({}, '/data', env).dataDirectory).toBe('/env')
})

test('the address of a Redis comes from the environment', () => {
  const url = 'rediss://:secret@example.org:6380/1'
  expect(readNodeConfig({}, '/data', { BRAMBLE_REDIS_URL: url }).redisUrl).toBe(url)
  expect(() => readNodeConfig({}, '/data', { BRAMBLE_REDIS_URL: 'example.org' })).toThrow(
    expect.objectContaining({ code: 'invalid_request', issues: [expect.objectContaining({ path: 'redisUrl' })] }),
  )
})

test('the object store comes from the environment, or a flag that holds no secret', () => {
  const url = 's3://bucket/prefix?endpoint=http://127.0.0.1:9000&accessKeyId=id&secretAccessKey=very-secret'
  const env = { BRAMBLE_OBJECT_STORE_URL: url, BRAMBLE_STORE_MAX_GB: '1.5' }
  expect(readNodeConfig({}, '/data', env)).toMatchObject({ objectStoreUrl: url, storeMaxGb: 1.5 })
  expect(readNodeConfig({ objectStore: 's3://other' }, '/data', env).objectStoreUrl).toBe('s3://other')
  const detailOf = (run: () => unknown): string => {
    try {
      run()
      return 'accepted'
    } catch (error) {
      return String(error)
    }
  }
  const inFlag = detailOf(() => readNodeConfig({ objectStore: url }, '/data', {}))
  expect(inFlag).toContain('BRAMBLE_OBJECT_STORE_URL')
  const wrong = detailOf(() => readNodeConfig({}, '/data', { BRAMBLE_OBJECT_STORE_URL: `${url}&region=no region` }))
  expect(wrong).toContain('its region is no name')
  expect(inFlag + wrong).not.toContain('very-secret')
})

test.for([
  [{ objectStore: 'http://bucket' }, 'objectStoreUrl'],
  [{ storeMaxGb: '0' }, 'storeMaxGb'],
  [{ port: '65536' }, 'port'],
  [{ port: 'http' }, 'port'],
  [{ runtime: 'fake' }, 'runtime'],
  [{ logLevel: 'loud' }, 'logLevel'],
  [{ noIsolation: true, host: '0.0.0.0' }, 'host'],
] as const)('%o is refused by name', ([flags, path]) => {
  expect(() => readNodeConfig(flags, '/data', {})).toThrow(
    expect.objectContaining({ code: 'invalid_request', issues: [expect.objectContaining({ path })] }),
  )
})
