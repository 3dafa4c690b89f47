import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stripVTControlCharacters } from 'node:util'
import { Bramble, type Instance } from '@bramble/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { inTerminal } from '../../test/in-terminal.ts'
import { runCli } from '../../test/spawn-cli.ts'
import { openTestNode, type TestNode } from '../../test/test-node.ts'

let node: TestNode
let bramble: Bramble
let box: Instance
let directory: string
let env: Record<string, string>
beforeAll(async () => {
  node = await openTestNode()
  env = { BRAMBLE_DATA_DIR: node.dataDirectory }
  bramble = new Bramble({ url: node.url, apiKey: node.key })
  box = await bramble.instances.start({ name: 'box' })
  directory = await mkdtemp(join(tmpdir(), 'bramble-cli-snapshots-'))
})
afterAll(async () => {
  await node[Symbol.asyncDispose]()
  await rm(directory, { recursive: true, force: true })
})

const cli = (args: string[], stdin?: string) => runCli(args, env, stdin)
/** What it prints where that went well. */
const said = async (...args: string[]): Promise<string> => {
  const { code, stdout, stderr } = await cli(args)
  expect({ args, code, stderr: code === 0 ? '' : stderr }).toEqual({ args, code: 0, stderr: '' })
  return stdout.trim()
}

test('snapshot, ls, show, diff, set, restore and rm', async () => {
  await box.exec('echo one > /tmp/file', { check: true })
  const taken = await cli(['snapshot', 'box', 'before', '--no-memory', '-l', 'a=b'])
  expect(taken).toMatchObject({ code: 0, stdout: expect.stringMatching(/^[0-9a-f]{64}\n$/) })
  expect(taken.stderr).toMatch(/^box: \d+ paths, .*, without memory; .* more in \d/)
  const id = taken.stdout.trim()
  await box.exec('echo two > /tmp/file; echo new > /tmp/new', { check: true })
  expect(JSON.parse(await said('snapshot', box.id, 'after', '--no-memory', '--json'))).toMatchObject({ name: 'after' })

  expect(JSON.parse(await said('snapshots'))).toMatchObject([{ name: 'after' }, { name: 'before', id }])
  expect(JSON.parse(await said('snapshot', 'ls', '-l', 'a'))).toMatchObject([{ id }])
  expect(JSON.parse(await said('snapshots', 'show', id.slice(0, 10)))).toMatchObject({ id, source: box.id })
  const { items } = JSON.parse(await said('snapshot', 'diff', 'before', 'after'))
  expect(items).toMatchObject([
    { path: 'tmp/file', change: 'changed' },
    { path: 'tmp/new', change: 'added' },
  ])

  expect(await said('snapshot', 'set', 'before', '--name', 'start', '--ttl', '1h')).toBe('start')
  expect(JSON.parse(await said('snapshot', 'show', 'start')).expiresAt).not.toBeNull()
  expect(JSON.parse(await said('snapshot', 'set', 'start', '--no-ttl', '--json'))).toMatchObject({ expiresAt: null })
  const again = await said('snapshot', 'restore', 'start', '--name', 'again')
  expect(again).toMatch(/^ins_/)
  expect(await said('exec', 'again', '--', 'cat', '/tmp/file')).toBe('one')
  expect(await said('snapshots', 'rm', 'start', 'after')).toBe('start\nafter')
  const gone = await cli(['snapshot', 'show', 'start'])
  expect(gone).toMatchObject({ code: 125, stdout: '' })
  expect(gone.stderr).toMatch(/^bramble: .*start/)
})

test('a snapshot goes through one file, or a pipe', async () => {
  const id = await said('snapshot', 'box', 'carry', '--no-memory')
  const file = join(directory, 'carried')
  expect(await said('snapshot', 'export', 'carry', file)).toBe(file)
  expect((await stat(file)).size).toBeGreaterThan(0)
  expect(await said('snapshot', 'import', file, '--name', 'back')).toBe(id)
  expect(JSON.parse(await said('snapshot', 'show', 'back'))).toMatchObject({ id })
  for (const [args, why] of [
    [['snapshot', 'import', join(directory, 'nothing')], 'there is no file'],
    [['snapshot', 'import', directory], 'is a directory'],
    [['snapshot', 'export', 'no-such-name', join(directory, 'x')], 'no-such-name'],
    [['snapshot', 'set', 'carry'], 'nothing to change'],
  ] as const)
    expect(await cli([...args])).toMatchObject({ code: 125, stderr: expect.stringContaining(why) })
  expect(await cli(['snapshot', 'import', '-'], 'no snapshot')).toMatchObject({
    code: 125,
    stderr: expect.stringContaining('snapshot export'),
  })
  expect(await readdir(directory)).toEqual(['carried'])
})

test('branch prints ids; with commands it runs them, and ends as the first that failed', async () => {
  await box.exec('echo base > /tmp/base', { check: true })
  const two = (await said('branch', 'box', '-n', '2', '--no-memory')).split('\n')
  expect(two).toHaveLength(2)
  expect(await said('exec', two[0] ?? '', '--', 'cat', '/tmp/base')).toBe('base')
  const ran = await cli(['branch', 'box', '--no-memory', '--run', 'cat /tmp/base', '--run', 'exit 5'])
  expect(ran.code).toBe(5)
  expect(ran.stdout.trim().split('\n')).toHaveLength(2)
  expect(ran.stderr).toContain('exit 0  cat /tmp/base  (without memory)\n  base\n')
  expect(ran.stderr).toContain('exit 5  exit 5')
  const same = await cli(['branch', 'box', '--no-memory', '--json', '-n', '2', '--', 'cat', '/tmp/base'])
  expect(JSON.parse(same.stdout).items).toMatchObject([{ result: { stdout: 'base\n' } }, { result: { exitCode: 0 } }])
  expect(JSON.parse(await said('branches', 'box'))).toHaveLength(6)
  expect((await cli(['branch', 'box', '-n', '2', '--run', 'x'])).stderr).toContain('--run makes a branch for each')
})

test('merge prints the snapshot, or every conflict with the next step, and ends with 1', async () => {
  const run = ['--run', 'echo l > /tmp/l; echo l > /tmp/both', '--run', 'echo r > /tmp/r; echo r > /tmp/both']
  const [left = '', right = ''] = (await said('branch', 'box', '--no-memory', ...run)).split('\n')
  const refused = await cli(['merge', left, right])
  expect(refused).toMatchObject({ code: 1, stdout: '' })
  expect(refused.stderr).toMatch(/^PATH +WHAT +BRANCHES\n\/tmp\/both +both changed it/)
  expect(refused.stderr).toContain('1 conflict, so nothing was made')
  expect(refused.stderr).toContain(`--strategy ours takes ${left}, theirs ${right}`)
  expect(JSON.parse((await cli(['merge', left, right, '--json'])).stdout)).toMatchObject({ totals: { conflicts: 1 } })
  const made = await cli(['merge', left, right, '--strategy', 'theirs', '--name', 'merged'])
  expect(made).toMatchObject({ code: 0, stdout: expect.stringMatching(/^[0-9a-f]{64}\n$/) })
  expect(made.stderr).toContain('bramble snapshot restore merged')
  await said('snapshot', 'restore', 'merged', '--name', 'both')
  expect(await said('exec', 'both', '--', 'cat', '/tmp/l', '/tmp/r', '/tmp/both')).toBe('l\nr\nr')
  const strange = await cli(['merge', left, right, '--strategy', 'mine'])
  expect(strange).toMatchObject({ code: 125, stderr: expect.stringContaining('strategy') })
})

test('fork runs in a branch, and its exit code is the command’s', async () => {
  await box.exec('echo here > /tmp/fork', { check: true })
  const ran = await cli(['fork', 'box', '--', 'sh', '-c', 'cat /tmp/fork; rm /tmp/fork; exit 3'])
  expect(ran).toMatchObject({ code: 3, stdout: 'here\n' })
  expect(JSON.parse(await said('fork', '--json', 'box', 'cat /tmp/fork'))).toMatchObject({ mode: 'branched' })
})

test('run begins in a snapshot and leaves one; pause keeps one', async () => {
  const left = await cli(['run', '--mode', 'checkpointed', 'echo step > /tmp/step'])
  const id = /^bramble: snapshot ([0-9a-f]{64})$/m.exec(left.stderr)?.[1] ?? left.stderr
  expect(await said('run', '--from', id, '--mode', 'checkpointed', 'cat /tmp/step')).toBe('step')
  const other = await bramble.instances.start({ name: 'other' })
  expect(await said('pause', '--snapshot', 'other')).toBe('other')
  expect((await other.refresh()).info).toMatchObject({ status: 'paused', snapshotId: expect.any(String) })
  expect((await cli(['pause', '--snapshot', 'other'])).stderr).toBe('other is paused already\n')
})

test('the store says what it holds, and what a collection removed', async () => {
  expect(JSON.parse(await said('store'))).toMatchObject({ blobs: expect.any(Number) })
  expect(JSON.parse(await said('store', 'collect'))).toMatchObject({ seals: expect.any(Number) })
})

test('on a terminal: a tree, a diff in colour, a store in words', async () => {
  await using trunk = await bramble.instances.start({ name: 'trunk' })
  const before = await trunk.snapshot({ name: 'tree-a', memory: false })
  await trunk.exec('echo 1 > /tmp/added', { check: true })
  await trunk.snapshot({ name: 'tree-b', memory: false })
  const [branch] = await trunk.branch(1, { memory: false })
  const shown = async (...args: string[]): Promise<string> => (await inTerminal(args, env).ended).screen
  const tree = stripVTControlCharacters(await shown('branches', 'trunk'))
  expect(tree).toContain(`● ${trunk.id} trunk`)
  expect(tree).toContain(`├─◆ ${before.id.slice(0, 12)} tree-a`)
  expect(tree).toContain(`└─● ${branch?.id}`)
  expect(await shown('snapshot', 'diff', 'tree-a', 'tree-b')).toContain('\u001b[32m+ /tmp/added')
  expect(await shown('snapshots', '--name', 'tree-a')).toContain(before.id.slice(0, 12))
  expect(await shown('snapshot', 'show', 'tree-a')).toContain(`of         ${trunk.id}`)
  expect(await shown('store')).toContain('stored ')
  await branch?.delete()
})
