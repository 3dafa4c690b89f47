import { execFile, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { oci } from '@bramble/runtime'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { canRunNode, type NodeProcess, startNodeProcess } from './node-process.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8')

/** The blocks of code in that language, as they stand. */
const blocks = (language: string): string[] =>
  [...readme.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, 'gms'))].map(([, code = '']) => code)

const URL_THERE = 'http://127.0.0.1:8080'
const DATA_THERE = '/var/lib/bramble'

describe('what the README shows', () => {
  let skip: string | undefined
  let node: NodeProcess

  beforeAll(async () => {
    skip = await canRunNode(oci())
    if (skip !== undefined) return
    node = await startNodeProcess()
  })
  afterAll(() => node?.[Symbol.asyncDispose]())

  /** A snippet, on the node of this test instead of the one that `up` starts for a user. */
  const here = (code: string): string => code.replaceAll(URL_THERE, node.url).replaceAll(DATA_THERE, node.dataDirectory)
  const env = () => ({ PATH: process.env.PATH, HOME: process.env.HOME, BRAMBLE_DATA_DIR: node.dataDirectory })
  const shell = async (code: string): Promise<string> =>
    (await promisify(execFile)('sh', ['-ec', here(code)], { cwd: root, env: env() })).stdout

  test('two commands: the node starts, and a command runs', async ({ skip: skipTest }) => {
    if (skip !== undefined) skipTest(skip)
    const [first = ''] = blocks('sh')
    const [up, run = ''] = first.trimEnd().split('\n')
    expect(up).toBe('./bramble up --detach')
    // The node of this data directory runs already, which `up` says.
    expect(JSON.parse(await shell(`${up}`))).toMatchObject({ type: 'running', url: node.url })
    expect(await shell(run)).toBe('hello\n')
  })

  test('ten lines of TypeScript', async ({ skip: skipTest }) => {
    if (skip !== undefined) skipTest(skip)
    const [code = ''] = blocks('ts')
    expect(code).toContain(URL_THERE)
    expect(code.split('\n').filter((line) => line !== '').length).toBeLessThanOrEqual(10)
    const child = spawn(process.execPath, ['--input-type=module-typescript', '-'], {
      cwd: root,
      env: { ...env(), BRAMBLE_API_KEY: node.key },
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    child.stdin.end(here(code))
    const lines = (await text(child.stdout)).trimEnd().split('\n')
    expect(lines[0]).toMatch(/^Linux sandbox /)
    expect(lines.slice(-2)).toEqual([String.raw`[ '1\n', '4\n', '9\n' ]`, '1'])
  })

  test('an instance, from start to end', async ({ skip: skipTest }) => {
    if (skip !== undefined) skipTest(skip)
    const code = blocks('sh').find((block) => block.includes('start --name')) ?? ''
    expect(await shell(code)).toMatch(/^ins_\w+\nhello from \S+\nbox\n$/)
  })

  test('a state: kept, compared, forked, merged', async ({ skip: skipTest }) => {
    if (skip !== undefined) skipTest(skip)
    const code = blocks('sh').find((block) => block.includes('snapshot')) ?? ''
    const said = await shell(code)
    expect(said).toMatch(/^ins_\w+\n[0-9a-f]{64}\n[0-9a-f]{64}\n\{\n/)
    expect(said).toContain('"path": "root/one"')
    expect(said).toMatch(/\n[0-9a-f]{64}\nins_\w+\na\nb\none\n(?:lab\n|merged\n|ins_\w+\n){4}$/)
  })

  test('a network on one machine', async ({ skip: skipTest }) => {
    if (skip !== undefined) skipTest(skip)
    const code = blocks('sh').find((block) => block.includes('--nodes')) ?? ''
    const own = mkdtempSync(join(tmpdir(), 'bramble-readme-'))
    const there = { ...env(), BRAMBLE_DATA_DIR: own, BRAMBLE_PORT: '0', BRAMBLE_MAX_POOLED: '0' }
    const run = (script: string) => promisify(execFile)('sh', ['-ec', script], { cwd: root, env: there })
    try {
      const { stdout } = await run(code)
      expect(stdout).toMatch(/^no node runs on .*\n\{"type":"ready",.*\nhello\n\[\n/)
      expect(stdout).toContain('"name": "first"')
      expect(stdout).toContain('"valid": true')
      expect(stdout.match(/"status": "online"/g)).toHaveLength(3)
      expect(stdout).toMatch(/stopped the network at http.*\n$/)
    } finally {
      await run('./bramble down')
      rmSync(own, { recursive: true, force: true })
    }
  })

  test('over HTTP, with curl', async ({ skip: skipTest }) => {
    if (skip !== undefined) skipTest(skip)
    const code = blocks('sh').find((block) => block.includes('curl')) ?? ''
    expect(code).toContain(URL_THERE)
    expect(JSON.parse(await shell(code))).toMatchObject({ status: 'succeeded', stdout: 'hello\n' })
  })
})
