import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stripVTControlCharacters } from 'node:util'
import { openTestNetwork, type TestNetwork } from '@bramble/worker/testing'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { inTerminal } from '../../test/in-terminal.ts'
import { runCli, spawnCli } from '../../test/spawn-cli.ts'
import { openTestNode } from '../../test/test-node.ts'

let network: TestNetwork
let env: Record<string, string>
let directory: string
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'bramble-cli-network-'))
  network = await openTestNetwork()
  for (let node = 0; node < 3; node++) await network.join({ name: `node-${node}` })
  env = {
    BRAMBLE_URL: network.coordinator.url,
    BRAMBLE_API_KEY: network.coordinator.adminKey ?? '',
    BRAMBLE_DATA_DIR: directory,
  }
})
afterAll(async () => {
  await network[Symbol.asyncDispose]()
  await rm(directory, { recursive: true, force: true })
})

const cli = (args: string[], stdin?: string) => runCli(args, env, stdin)
const said = async (...args: string[]): Promise<string> => {
  const { code, stdout, stderr } = await cli(args)
  expect({ args, code, stderr: code === 0 ? '' : stderr }).toEqual({ args, code: 0, stderr: '' })
  return stdout.trim()
}
const submitted = (...args: string[]): Promise<string> => said('submit', '--detach', ...args)

describe('submit', () => {
  test('waits for the verdict, passes both streams as they are, and ends as the command did', async () => {
    const end = await cli(['submit', '--wait', '--', 'sh', '-c', 'printf "a\\377b"; echo warn >&2; exit 7'])
    expect(end).toMatchObject({ code: 7, stdout: 'a\xffb' })
    expect(end.stderr).toMatch(/^bramble: job job_\w{26}\nwarn\n$/)
  })

  test('in a pipe, or detached, prints the id alone; with --json the job', async () => {
    const id = await said('submit', '--', 'true')
    expect(id).toMatch(/^job_\w{26}$/)
    expect(await network.client.jobs.wait(id)).toMatchObject({ status: 'completed' })
    const job = JSON.parse(await said('submit', '--wait', '--json', '--name', 'named', '-l', 'a=b', 'echo', 'x'))
    expect(job).toMatchObject({ status: 'completed', name: 'named', labels: { a: 'b' }, verification: { agreed: 2 } })
  })

  test('input, files, secrets and terms of the job reach it', async () => {
    const file = join(directory, 'secret.txt')
    await writeFile(file, 'from a file\n')
    const terms = [
      '-n',
      '3',
      '-k',
      '3',
      '--strategy',
      'eager',
      '--priority',
      '70',
      '--credits',
      '2',
      '--deadline',
      '5m',
    ]
    const secrets = ['--secret-env', 'TOKEN=hidden', '--secret-file', `${file}:/tmp/secret`]
    const args = ['submit', '--stdin', '--json', '--wait', ...terms, ...secrets, 'cat; cat /tmp/secret; echo "$TOKEN"']
    const { code, stdout } = await cli(args, 'from stdin\n')
    expect(code).toBe(0)
    const job = JSON.parse(stdout)
    expect(job).toMatchObject({ redundancy: 3, consensus: 3, strategy: 'eager', priority: 70, creditsRequired: 2 })
    expect(job.result.stdout.content).toBe('from stdin\nfrom a file\nhidden\n')
    expect(Date.parse(job.deadline)).toBeGreaterThan(Date.parse(job.createdAt))
  })

  test('a job without a result ends with 125 and says why', async () => {
    const end = await cli(['submit', '--wait', '--cpus', '64', '--deadline', '1s', 'true'])
    expect(end).toMatchObject({ code: 125, stdout: '' })
    expect(end.stderr).toMatch(/bramble: the job failed: .*\n {2}`bramble get \w{8}` shows who said what\.\n$/)
  })

  test('Ctrl-C cancels the job', async () => {
    const running = spawnCli(['submit', '--wait', '-n', '1', '-k', '1', '-l', 'ctrl=c', 'echo ready; sleep 1000'], env)
    await running.printed('ready')
    running.child.kill('SIGINT')
    expect(await running.ended).toMatchObject({ code: 130, stdout: 'ready\n' })
    expect(await network.client.jobs.list({ label: 'ctrl=c' }).all()).toMatchObject([{ status: 'cancelled' }])
  })

  test('what cannot be asked for is refused with the field', async () => {
    for (const [args, reason] of [
      [['-n', '1', '-k', '2', 'true'], 'consensus'],
      [['--policy', 'hope', 'true'], 'policy'],
      [['--share', 'everything', 'true'], 'owner, machine, subnet'],
      [['--secret-env', 'NOT_SET_HERE', 'true'], 'NOT_SET_HERE'],
      [['--deadline', 'soon', 'true'], '5m'],
    ] as const) {
      const end = await cli(['submit', ...args])
      expect(end, args.join(' ')).toMatchObject({ code: 125, stdout: '' })
      expect(end.stderr).toContain(reason)
    }
  })

  test('on a terminal it shows what goes on, then the result and what it rests on', async () => {
    const session = inTerminal(['submit', '--', 'echo', 'hello'], env)
    const { code, screen } = await session.ended
    expect(code).toBe(0)
    const plain = stripVTControlCharacters(screen)
    expect(plain).toMatch(/bramble: job job_\w{26}/)
    expect(plain).toContain('hello\r\n')
    expect(plain).toContain('✓ 2 nodes signed this result, 2 needed; checked here, with the result itself')
  })
})

describe('list and get', () => {
  test('jobs are listed newest first, bounded and filtered, and found by the end of their id or by name', async () => {
    const id = await submitted('--name', 'find-me', '-l', 'suite=list', '--', 'echo', 'x')
    await network.client.jobs.wait(id)
    const other = await submitted('-l', 'suite=list', '--', 'echo', 'y')
    await network.client.jobs.wait(other)
    const ids = (text: string) => JSON.parse(text).map((job: { id: string }) => job.id)
    expect(ids(await said('list', '-l', 'suite=list'))).toEqual([other, id])
    expect(ids(await said('list', '-n', '1', '--status', 'completed'))).toEqual([other])
    expect(ids(await said('list', '-l', 'suite=list', '--status', 'failed'))).toEqual([])
    for (const ref of [id, id.slice(-8), 'find-me'])
      expect(JSON.parse(await said('get', ref))).toMatchObject({ job: { id }, executions: [{ job: id }, { job: id }] })
    const none = await cli(['get', 'zzzzzzzz'])
    expect(none).toMatchObject({ code: 125, stdout: '' })
    expect(none.stderr).toContain('`bramble list` shows them')
  })

  test('get --receipts checks the evidence here', async () => {
    const id = await submitted('--', 'echo', 'evidence')
    await network.client.jobs.wait(id)
    const { evidence } = JSON.parse(await said('get', id, '--receipts'))
    expect(evidence).toMatchObject({ valid: true, needed: 2, faults: [], resultChecked: true })
    expect(evidence.nodes).toHaveLength(2)
    const waiting = await submitted('--cpus', '64', 'true')
    const end = await cli(['get', waiting, '--receipts'])
    expect(end.code).toBe(125)
    expect(JSON.parse(end.stdout).evidence.faults).toMatchObject([{ code: 'no_verdict' }])
    await network.client.jobs.cancel(waiting)
  })

  test('on a terminal, get says why a job waits; --watch follows it until q', async () => {
    const id = await submitted('--cpus', '64', 'true')
    const session = inTerminal(['get', id, '--watch'], env)
    await session.shows('too few processors')
    await network.client.jobs.cancel(id)
    await session.shows('cancelled')
    session.type('q')
    expect(await session.ended).toMatchObject({ code: 0, screen: expect.stringContaining('<cooked>') })
    const list = await inTerminal(['list'], env).ended
    expect(stripVTControlCharacters(list.screen)).toMatch(/ID +(NAME +)?STATUS +AGREED/)
  })
})

test('logs of a job are what its nodes agreed on, or a wait for that', async () => {
  const id = await submitted('echo out; echo err >&2; exit 3')
  expect(await cli(['logs', '-f', id])).toEqual({ code: 0, stdout: 'out\n', stderr: 'err\n' })
  expect(await cli(['logs', id])).toMatchObject({ code: 0, stdout: 'out\n' })
  const waiting = await submitted('--cpus', '64', 'true')
  expect(await cli(['logs', waiting])).toMatchObject({ code: 125, stdout: '' })
  const following = spawnCli(['logs', '-f', '--json', waiting], env)
  await following.printed('"type":"job"')
  await network.client.jobs.cancel(waiting)
  const { code, stdout } = await following.ended
  expect({ code, ends: stdout.includes('"cancelled"') }).toEqual({ code: 0, ends: true })
})

describe('nodes and stats', () => {
  test('nodes are listed, shown, drained and resumed by name or by the beginning of their id', async () => {
    const nodes = JSON.parse(await said('nodes'))
    expect(nodes.map(({ name }: { name: string }) => name).sort()).toEqual(['node-0', 'node-1', 'node-2'])
    const [{ id, name }] = nodes
    expect(JSON.parse(await said('nodes', 'show', id.slice(0, 10)))).toMatchObject({
      node: { id },
      reputation: expect.any(Array),
    })
    expect(await said('nodes', 'drain', name)).toMatch(new RegExp(`^${id} (draining|drained)$`))
    expect(await said('nodes', 'resume', name)).toBe(`${id} online`)
    expect((await cli(['nodes', 'drain', 'nobody'])).stderr).toContain('`bramble nodes` shows them')
    const shown = await inTerminal(['nodes', 'show', name], env).ended
    expect(stripVTControlCharacters(shown.screen)).toMatch(/owner +owner-\d/)
  })

  test('a node that is suspended says why', async () => {
    const { worker } = await network.join({ name: 'liar' })
    expect(await said('nodes', 'suspend', 'liar', '-m', 'it lied')).toBe(`${worker.node} suspended`)
    const [node] = JSON.parse(await said('nodes', '--status', 'suspended'))
    expect(node).toMatchObject({ id: worker.node, message: expect.stringContaining('it lied') })
  })

  test('an invite is a token alone, with which a node joins', async () => {
    const { code, stdout, stderr } = await cli(['nodes', 'invite', '--owner', 'ada', '--ttl', '1h', '-l', 'rack=7'])
    expect({ code, lines: stdout.split('\n').length }).toEqual({ code: 0, lines: 2 })
    expect(stderr).toContain(`bramble worker join ${network.coordinator.url} --token`)
    const { worker } = await network.join({ token: stdout.trim(), name: 'invited' })
    expect(await network.client.network.node(worker.node)).toMatchObject({ owner: 'ada' })
  })

  test('stats, as JSON and for a person', async () => {
    expect(JSON.parse(await said('stats'))).toMatchObject({ jobs: expect.any(Object), publicKey: expect.any(String) })
    const { screen } = await inTerminal(['stats'], env).ended
    expect(stripVTControlCharacters(screen)).toMatch(/executions +\d+ running, \d+ waiting/)
  })
})

test('a node by itself says that it is no network', async () => {
  await using node = await openTestNode()
  const alone = { BRAMBLE_DATA_DIR: node.dataDirectory }
  for (const args of [['list'], ['submit', 'true'], ['nodes'], ['stats'], ['get', 'x']]) {
    const end = await runCli(args, alone)
    expect(end, args[0]).toMatchObject({ code: 125, stdout: '' })
    expect(end.stderr).toContain('bramble up --nodes 3')
  }
})
