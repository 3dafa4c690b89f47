import { healthSchema } from '@bramble/protocol'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openTestNode, problemOf, type TestNode } from '../../test/test-node.ts'
import { routeTable } from './table.ts'

let node: TestNode
beforeAll(async () => {
  node = await openTestNode()
})
afterAll(() => node[Symbol.asyncDispose]())

test('health and readiness need no key, and answer to HEAD', async () => {
  const health = healthSchema.parse(await (await fetch(`${node.url}/health`)).json())
  expect(health).toMatchObject({ status: 'ok', version: '1.2.3', runtimes: [{ name: 'fake', available: true }] })
  expect(await (await fetch(`${node.url}/ready`)).json()).toEqual({ status: 'ready' })
  const head = await fetch(`${node.url}/ready`, { method: 'HEAD' })
  expect([head.status, await head.text()]).toEqual([200, ''])
})

test('metrics count requests and executions', async () => {
  await node.fetch('/api/v1/execute', { json: { command: 'exit 1' } })
  const text = await (await fetch(`${node.url}/metrics`)).text()
  expect(text).toMatch(/^http_requests_total\{method="POST",route="\/api\/v1\/execute",status="200"\} \d+$/m)
  expect(text).toMatch(/^http_request_duration_seconds_bucket\{le="0.001",method="POST"/m)
  expect(text).toMatch(/^executions_total\{status="failed",runtime="fake"\} 1$/m)
  expect(text).toMatch(/^pool_misses_total\{image="sha256:[0-9a-f]+",runtime="fake"\} 1$/m)
  expect(text).toMatch(/^sandbox_create_duration_seconds_count\{runtime="fake"\} [1-9]/m)
  for (const name of ['executions_running', 'queue_length', 'sandboxes_pooled', 'process_resident_memory_bytes'])
    expect(text).toMatch(new RegExp(`^${name} \\d`, 'm'))
})

test('metrics asked for through a proxy need a key', async () => {
  const headers = { 'x-forwarded-for': '192.0.2.1' }
  expect(await problemOf(await fetch(`${node.url}/metrics`, { headers }))).toMatchObject({ code: 'unauthorized' })
  const { key } = await node.newKey({ scopes: ['read'] })
  expect((await node.fetch('/metrics', { headers, key })).status).toBe(200)
})

interface Operation {
  operationId: string
  security: object[]
  parameters: { name: string; in: string; required: boolean }[]
  requestBody?: { content: Record<string, object> }
  responses: Record<string, { content?: Record<string, { schema: object }> }>
}

test('the OpenAPI document has every route, and every reference in it leads somewhere', async () => {
  const document = (await (await fetch(`${node.url}/openapi.json`)).json()) as {
    openapi: string
    paths: Record<string, Record<string, Operation>>
    components: { schemas: Record<string, object> }
  }
  expect(document.openapi).toBe('3.1.0')
  for (const { method, path } of routeTable('1')) {
    const operation = document.paths[path.replace(/:(\w+)/g, '{$1}').replace(/\*$/, '{path}')]?.[method.toLowerCase()]
    expect(operation, `${method} ${path}`).toBeDefined()
  }
  const references = [...JSON.stringify(document).matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g)]
  expect(references.length).toBeGreaterThan(10)
  for (const [, name = ''] of references) expect(document.components.schemas).toHaveProperty(name)
  const operations = Object.values(document.paths).flatMap((methods) => Object.values(methods))
  const ids = operations.map(({ operationId }) => operationId)
  expect(new Set(ids).size).toBe(ids.length)

  const execute = document.paths['/api/v1/execute']?.post
  expect(Object.keys(execute?.responses ?? {})).toEqual(
    expect.arrayContaining(['200', '400', '401', '404', '429', '503']),
  )
  expect(execute?.parameters.map(({ name }) => name)).toEqual(['Idempotency-Key'])
  expect(Object.keys(execute?.responses['200']?.content ?? {})).toEqual(['application/json', 'text/event-stream'])
  const spec = document.components.schemas.ExecutionSpecInput as { required: string[]; additionalProperties: boolean }
  expect(spec).toMatchObject({ required: ['command'], additionalProperties: false })
  expect(document.paths['/api/v1/executions/{id}']?.get?.parameters).toMatchObject([
    { name: 'id', in: 'path', required: true },
  ])
  expect(document.paths['/health']?.get?.security).toEqual([])
})

test('the page of the API loads its own files and nothing else', async () => {
  const page = await fetch(`${node.url}/docs`)
  expect(page.headers.get('content-type')).toContain('text/html')
  expect(page.headers.get('content-security-policy')).toContain("default-src 'none'")
  expect(page.headers.get('x-frame-options')).toBe('DENY')
  const files = [...(await page.text()).matchAll(/(?:src|href)="([^"]+)"/g)].map(([, path]) => path)
  expect(files.length).toBe(4)
  for (const path of files) {
    const response = await fetch(node.url + path)
    expect(response.status, path).toBe(200)
    expect((await response.arrayBuffer()).byteLength).toBeGreaterThan(50)
  }
  for (const path of ['/docs/package.json', '/docs/..%2fpackage.json', '/docs/%2e%2e/%2e%2e/package.json'])
    expect((await fetch(node.url + path)).status).toBe(404)
})
