import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Bramble } from '@bramble/sdk'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { runCli, spawnCli } from '../test/spawn-cli.ts'
import { openTestNode, type TestNode } from '../test/test-node.ts'

let node: TestNode
let env: Record<string, string>
let bramble: Bramble

beforeAll(async () => {
  node = await openTestNode()
  env = { BRAMBLE_DATA_DIR: node.dataDirectory }
  bramble = new Bramble({ url: node.url, apiKey: node.key })
})
afterAll(() => node[Symbol.asyncDispose]())

const cli = (args: string[], stdin?: string) => runCli(args, env, stdin)

describe('run', () => {
  test('passes both streams as they are, and ends with the exit code of the command', async () => {
    const end = await cli(['run', '--', 'sh', '-c', 'printf "a\\377b"; echo warn >&2; exit 7'])
    expect(end).toEqual({ code: 7, stdout: 'a\xffb', stderr: 'warn\n' })
  })

  test('one word with shell syntax in it is a line for the shell; options end at the first word', async () => {
    expect(await cli(['run', 'echo one; echo two'])).toMatchObject({ code: 0, stdout: 'one\ntwo\n' })
    expect(await cli(['run', 'echo', '--json', '-x'])).toMatchObject({ code: 0, stdout: '--json -x\n' })
  })

  test('a command that is not there is 127, one that cannot be executed 126, and a line says so', async () => {
    const missing = await cli(['run', '--', 'no-such-program'])
    expect(missing).toMatchObject({ code: 127, stdout: '' })
    expect(missing.stderr).toMatch(/^bramble: the command was not found[^\n]*\n$/)
    const nowhere = await cli(['run', '--workdir', '/no-such-directory', '--', 'pwd'])
    expect(nowhere).toMatchObject({ code: 126, stdout: '' })
    expect(nowhere.stderr).toMatch(/^bramble: the working directory cannot be entered[^\n]*\n$/)
  })

  test('what is wrong with the request is said once, in the words of the command line', async () => {
    const end = await cli(['run', '--runtime', 'nope', '--', 'true'])
    expect(end).toMatchObject({ code: 125, stdout: '' })
    expect(end.stderr).toMatch(/^bramble: [^\n]*`runtime`[^\n]*\n$/)
    expect((await cli(['run', '--file', '/no/such/file', '--', 'true'])).stderr).toBe(
      'bramble: --file /no/such/file: there is no such file\n',
    )
    expect((await cli(['run'])).stderr).toContain('`bramble run --help`')
  })

  test('input, files, environment and labels reach it', async () => {
    const file = join(node.dataDirectory, 'input.txt')
    await writeFile(file, 'from a file\n')
    const args = ['--stdin', '--file', `${file}:/tmp/x`, '-e', 'NAME=va=lue', '-l', 'from=cli', '--timeout', '20s']
    const end = await cli(['run', ...args, 'cat; cat /tmp/x; echo "$NAME"'], 'from stdin\n')
    expect(end).toMatchObject({ code: 0, stdout: 'from stdin\nfrom a file\nva=lue\n' })
    const [record] = await bramble.executions.list({ label: 'from=cli' }).all()
    expect(record).toMatchObject({ status: 'succeeded' })
  })

  test('--json prints the result instead', async () => {
    const end = await cli(['run', '--json', '--', 'sh', '-c', 'echo out; exit 2'])
    expect(end.code).toBe(2)
    expect(JSON.parse(end.stdout)).toMatchObject({ stdout: 'out\n', exitCode: 2, status: 'failed' })
  })

  test('output comes while the command runs; Ctrl-C cancels it on the node and ends with 130', async () => {
    const running = spawnCli(['run', '-l', 'ctrl=c', 'echo ready; sleep 1000'], env)
    await running.printed('ready')
    running.child.kill('SIGINT')
    expect(await running.ended).toEqual({ code: 130, stdout: 'ready\n', stderr: '' })
    const [record] = await bramble.executions.list({ label: 'ctrl=c' }).all()
    expect(record).toMatchObject({ status: 'cancelled' })
  })

  test('SIGTERM cancels it too, with its own code', async () => {
    const running = spawnCli(['run', 'echo ready; sleep 1000'], env)
    await running.printed('ready')
    running.child.kill('SIGTERM')
    expect((await running.ended).code).toBe(143)
  })

  test('a reader that goes away cancels it', async () => {
    const running = spawnCli(['run', '-l', 'reader=gone', 'while true; do echo y; done'], env)
    await running.printed('y\n')
    running.child.stdout?.destroy()
    expect((await running.ended).code).toBe(141)
    const [record] = await bramble.executions.list({ label: 'reader=gone' }).all()
    expect(record).toMatchObject({ status: 'cancelled' })
  })

  test('one that runs too long ends with 124 and says how to allow more', async () => {
    const end = await cli(['run', '--timeout', '30ms', 'sleep 1000'])
    expect(end.code).toBe(124)
    expect(end.stderr).toContain('30 ms')
    expect(end.stderr).toContain('--timeout')
  })

  test.each([
    [['run', '--image', 'nowhere', 'true'], 'bramble images'],
    [['run', '--memory', 'lots', 'true'], '512m'],
    [['run', '--env', 'noequals', 'true'], 'NAME=VALUE'],
    [['run', '--runtime', 'rocket', 'true'], 'runtime'],
    [['run', '--file', '/no/such/file', 'true'], '/no/such/file'],
    [['run'], 'missing required argument'],
    [['run', '--no-isolation', 'true'], 'a node runs at'],
  ])('%j is refused with 125 and says why', async (args, reason) => {
    const end = await cli(args)
    expect(end.code).toBe(125)
    expect(end.stdout).toBe('')
    expect(end.stderr).toMatch(/^bramble: /)
    expect(end.stderr).toContain(reason)
    expect(end.stderr).not.toContain('    at ')
  })
})

describe('lists', () => {
  test('ps is JSON in a pipe, newest first, bounded and filtered', async () => {
    for (let i = 0; i < 3; i++) await bramble.run(`exit ${i}`, { labels: { ps: 'yes' } })
    const all = await cli(['ps', '--all', '--label', 'ps=yes'])
    expect(JSON.parse(all.stdout)).toMatchObject([{ kind: 'execution', exitCode: 2 }, { exitCode: 1 }, { exitCode: 0 }])
    expect(JSON.parse((await cli(['ps', '--label', 'ps=yes'])).stdout)).toEqual([])
    expect(JSON.parse((await cli(['ps', '-a', '-n', '1', '--label', 'ps'])).stdout)).toHaveLength(1)
    expect(JSON.parse((await cli(['ps', '--label', 'ps=yes', '--status', 'succeeded'])).stdout)).toHaveLength(1)
  })

  test('pools, usage and images answer in JSON', async () => {
    expect(JSON.parse((await cli(['prewarm', 'base', '1'])).stdout)).toMatchObject([{ floor: 1 }])
    expect(JSON.parse((await cli(['pools'])).stdout)).toMatchObject([{ floor: 1 }])
    expect(JSON.parse((await cli(['usage', '--since', '1h'])).stdout)).toBeInstanceOf(Array)
    expect(JSON.parse((await cli(['images'])).stdout)).toMatchObject([{ names: ['base'] }])
  })
})

describe('logs', () => {
  test('shows what a command wrote, on the stream where it wrote it', async () => {
    const { id } = await bramble.run('echo out; echo err >&2')
    expect(await cli(['logs', id])).toEqual({ code: 0, stdout: 'out\n', stderr: 'err\n' })
  })

  test('of a running one: what there is, or with -f until its end', async () => {
    const stream = bramble.stream('echo begun; sleep 1000')
    const events = stream[Symbol.asyncIterator]()
    for (let step = await events.next(); step.value?.type !== 'stdout'; step = await events.next());
    const id = stream.id ?? ''
    expect(await cli(['logs', id])).toMatchObject({ code: 0, stdout: 'begun\n' })
    const following = spawnCli(['logs', '-f', id], env)
    await following.printed('begun')
    await bramble.executions.cancel(id)
    expect((await following.ended).code).toBe(0)
    await events.return?.()
  })

  test('of an id that is none, or of nobody, says so', async () => {
    expect((await cli(['logs', 'exe_1'])).code).toBe(125)
    const end = await cli(['logs', 'exe_01k0000000000000000000000a'])
    expect(end).toMatchObject({ code: 125, stdout: '' })
    expect(end.stderr).toContain('There is no such thing here')
  })
})

test('keys are made, listed without their secret, used, and removed', async () => {
  const made = await cli(['keys', 'add', 'ci', '--scope', 'execute', '--scope', 'read', '--rate', '50'])
  const key = made.stdout.trim()
  expect(made.stderr).toContain('only time')
  const listed = await cli(['keys'])
  expect(listed.stdout).not.toContain(key)
  const row = (JSON.parse(listed.stdout) as { id: string; name: string }[]).find(({ name }) => name === 'ci')
  const asCi = { BRAMBLE_URL: node.url, BRAMBLE_API_KEY: key }
  expect(await runCli(['run', 'echo hi'], asCi)).toMatchObject({ code: 0, stdout: 'hi\n' })
  expect((await runCli(['keys'], asCi)).stderr).toContain('does not allow')
  expect((await cli(['keys', 'rm', row?.id ?? ''])).code).toBe(0)
  expect((await runCli(['ps'], asCi)).stderr).toContain('API key')
})

test('images are imported, shown and removed, on the node', async () => {
  const end = await cli(['images', 'import', node.rootfsTar, '--json'])
  expect(JSON.parse(end.stdout)).toMatchObject([{ names: expect.arrayContaining(['my-rootfs']) }])
  expect(end.stderr).toContain('import')
  const remote = { BRAMBLE_URL: node.url.replace('127.0.0.1', 'localhost'), BRAMBLE_API_KEY: node.key }
  const sent = await runCli(['images', 'import', node.rootfsTar, '--name', 'sent'], remote)
  expect(JSON.parse(sent.stdout)).toMatchObject([{ names: expect.arrayContaining(['sent']) }])
  expect((await cli(['images', 'import', './nowhere.tar'])).stderr).toContain('no such file')
  expect((await cli(['images', 'rm', 'nothing'])).code).toBe(125)
})

describe('the node that is meant', () => {
  test('without one, client commands say what to do', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'bramble-none-'))
    try {
      const end = await runCli(['ps'], { BRAMBLE_DATA_DIR: directory })
      expect(end.code).toBe(125)
      expect(end.stderr).toContain('`bramble up` starts one')
    } finally {
      await rm(directory, { recursive: true })
    }
  })

  test('one that does not answer is named', async () => {
    const gone = createServer()
    await new Promise<void>((resolve) => gone.listen(0, '127.0.0.1', resolve))
    const address = gone.address()
    const url = `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`
    await new Promise((resolve) => gone.close(resolve))
    const end = await runCli(['ps'], { BRAMBLE_URL: url, BRAMBLE_API_KEY: 'k' })
    expect(end.code).toBe(125)
    expect(end.stderr).toContain(`${url}/api/v1/`)
    expect(end.stderr).toContain(': connect ECONNREFUSED')
  })

  test('the admin key of this host is shown to no other node', async () => {
    const seen: (string | undefined)[] = []
    await using other = createServer((request, response) => {
      seen.push(request.headers.authorization)
      response.writeHead(404).end()
    })
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
    const address = other.address()
    const port = typeof address === 'object' ? address?.port : undefined
    await cli(['ps', '--url', `http://127.0.0.1:${port}`])
    expect(await readFile(join(node.dataDirectory, 'admin.key'), 'utf8')).toContain(node.key)
    expect(new Set(seen)).toEqual(new Set([undefined]))
  })
})
