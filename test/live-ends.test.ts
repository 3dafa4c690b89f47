import { readFileSync } from 'node:fs'
import type { Instance } from '@bramble/protocol'
import { findCgroups } from '@bramble/runtime'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { cgroupsOf, until } from './leftovers.ts'
import { type Activities, startActivities } from './live-activities.ts'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { connectLive, connectStream } from './live-socket.ts'
import { openSshUser } from './live-ssh.ts'

let node: LiveNode
let skip: string | undefined
beforeAll(async () => {
  const opened = await openLiveNode()
  if ('skip' in opened) skip = opened.skip
  else node = opened
})
afterAll(() => node?.[Symbol.asyncDispose]())
beforeEach(({ skip: skipTest }) => {
  if (skip !== undefined) skipTest(skip)
})

/** An instance with one of everything going on in it, and its cgroup. */
const busy = async (): Promise<{ box: Instance; activities: Activities; cgroup: string }> => {
  const before = new Set(cgroupsOf(node.dataDirectory))
  const box = await node.start({})
  const [cgroup = ''] = cgroupsOf(node.dataDirectory).filter((path) => !before.has(path))
  const user = await openSshUser(node.sshPort)
  await node.ask('POST', '/api/v1/ssh-keys', { json: { name: 'test', publicKey: user.publicKey } })
  return { box, activities: await startActivities(node, box.id, user), cgroup }
}

const change = async (box: Instance, what: string): Promise<Instance> =>
  (await node.ask('POST', `/api/v1/instances/${box.id}/${what}`)).json()

/** Whoever was in the middle of a file left the one before. */
const assertOldFiles = async ({ id }: Instance): Promise<void> => {
  expect(await node.sh(id, 'ls -A /half; cat /half/file /half/in-tree')).toBe('big\nfile\nin-tree\nold\nold\n')
}

const matching = (expected: Record<string, RegExp>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(expected).map(([name, pattern]) => [name, expect.stringMatching(pattern)]))

test('an instance that is deleted under its clients: each is told, none hangs, nothing is left', async () => {
  const { box, activities, cgroup } = await busy()
  using _clients = activities
  expect((await node.ask('DELETE', `/api/v1/instances/${box.id}`)).status).toBe(204)
  expect(cgroupsOf(node.dataDirectory)).not.toContain(cgroup)
  expect(await activities.ends).toEqual(
    matching({
      stream: /^4404\b/,
      pty: /^4404 not_found$/,
      tunnel: /^4500$/,
      exec: /^500 sandbox_died$/,
      events: /^200 sandbox_died$/,
      file: /^500 sandbox_died$/,
      tree: /^500 sandbox_died$/,
      port: /^500 sandbox_died$/,
      ssh: /^255$/,
    }),
  )
  for (const path of ['stream', 'pty', `pty?session=${activities.session}`, 'tunnel/9000'])
    await expect(connectLive(node, box.id, path)).rejects.toMatchObject({ status: 404, code: 'not_found' })
})

test('an instance that is stopped under its clients: commands end as they were asked to, files are the old ones', async () => {
  const { box, activities } = await busy()
  using _clients = activities
  expect(await change(box, 'stop')).toMatchObject({ status: 'stopped' })
  expect(await activities.ends).toEqual(
    matching({
      stream: /^1000\b/,
      pty: /^(1000|4409 instance_stopped)$/,
      tunnel: /^(1000|4500)$/,
      exec: /^(200 |500 sandbox_died$)/,
      events: /^200 /,
      file: /^500 sandbox_died$/,
      tree: /^500 sandbox_died$/,
      port: /^502 /,
      ssh: /^255$/,
    }),
  )
  await expect(connectStream(node, box.id)).rejects.toMatchObject({ status: 409, code: 'instance_stopped' })
  await change(box, 'start')
  await assertOldFiles(box)
})

test('an agent that is killed is reported as such on every way, and the instance starts again on its files', async () => {
  const { box, activities, cgroup } = await busy()
  using _clients = activities
  const [hierarchy = ''] = findCgroups()?.hierarchies ?? []
  const agent = readFileSync(`${hierarchy}/bramble/${cgroup}/cgroup.procs`, 'utf8')
    .trim()
    .split('\n')
    // The first process of its namespace (proc(5)).
    .find((pid) => /^NSpid:.*\t1$/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')))
  process.kill(Number(agent), 'SIGKILL')
  expect(await activities.ends).toEqual(
    matching({
      stream: /^1000 sandbox_died$/,
      pty: /^4500 sandbox_died$/,
      tunnel: /^4500$/,
      exec: /^500 sandbox_died$/,
      events: /^200 sandbox_died$/,
      file: /^500 sandbox_died$/,
      tree: /^500 sandbox_died$/,
      port: /^500 sandbox_died$/,
      ssh: /^255$/,
    }),
  )
  const after = (await node.ask('GET', `/api/v1/instances/${box.id}`)).json<Instance>()
  expect(after).toMatchObject({ status: 'stopped', reason: expect.stringMatching(/agent|sandbox/) })
  expect((await node.ask('POST', `/api/v1/instances/${box.id}/exec`, { json: { command: 'true' } })).code).toBe(
    'instance_stopped',
  )
  expect(cgroupsOf(node.dataDirectory)).not.toContain(cgroup)
  await change(box, 'start')
  await assertOldFiles(box)
})

test('clients that vanish in the middle of everything: what was theirs ends, what is the instance’s goes on', async () => {
  const { box, activities } = await busy()
  const running = (): Promise<string> => node.sh(box.id, 'ps -o args')
  activities.vanish()
  const theirs = /sleep 1001|sleep 1002|\/half\/file|untar|watch/
  await until('their commands and programs ended', async () => !theirs.test(await running()))
  expect(await running()).toContain('sleep 1000')
  await assertOldFiles(box)
  using pty = await connectLive(node, box.id, `pty?session=${activities.session}`)
  pty.send(Buffer.from('echo "<still $((40 + 2))>"\n'))
  await pty.until(() => pty.bytes().includes('<still 42>'))
  using stream = await connectStream(node, box.id)
  expect((await stream.event('state')).commands.map(({ id }) => id)).toEqual(
    expect.arrayContaining(['job', 'server', activities.session]),
  )
  using tunnel = await connectLive(node, box.id, 'tunnel/9000')
  tunnel.send(Buffer.from('again'))
  await tunnel.until(() => tunnel.bytes().includes('again'))
})

test('a node that is killed in the middle of everything: the next one has the instance, its commands and the old files', async () => {
  const { box, activities } = await busy()
  await node.kill()
  expect(new Set(Object.values(await activities.ends))).toEqual(new Set(['1006', 'cut', '200 cut', '255']))
  await node.again()
  expect((await node.ask('GET', `/api/v1/instances/${box.id}`)).json()).toMatchObject({ status: 'running' })
  const running = await node.sh(box.id, 'ps -o args')
  expect(running).toContain('sleep 1000')
  // What nobody could ask about any more ended with the node's connection.
  expect(running).not.toMatch(/sleep 1001|sleep 1002|\/half\/file|untar/)
  await assertOldFiles(box)
  using pty = await connectLive(node, box.id, `pty?session=${activities.session}`)
  pty.send(Buffer.from('echo "<still $((40 + 2))>"\n'))
  await pty.until(() => pty.bytes().includes('<still 42>'))
  expect((await node.ask('GET', `/p/${box.id}/9000/`)).status).toBe(502)
  using tunnel = await connectLive(node, box.id, 'tunnel/9000')
  tunnel.send(Buffer.from('again'))
  await tunnel.until(() => tunnel.bytes().includes('again'))
})

test('what has ended, or never was there, is said to be so', async () => {
  const box = await node.start({})
  using stream = await connectStream(node, box.id)
  stream.send({ type: 'exec', id: 'short', command: 'true' })
  await stream.event('exit')
  for (const message of [
    { type: 'signal', id: 'short', signal: 'KILL' },
    { type: 'stdin', id: 'short', data: 'x' },
    { type: 'close_stdin', id: 'short' },
    { type: 'resize', id: 'short', cols: 1, rows: 1 },
  ])
    stream.send(message)
  await stream.until(() => stream.messages.filter(({ code }) => code === 'not_found').length === 4)
  await node.ask('POST', `/api/v1/instances/${box.id}/ports`, { json: { port: 9 } })
  expect(await node.ask('GET', `/p/${box.id}/9/`)).toMatchObject({ status: 502, code: 'port_closed' })
  const upgrade = { connection: 'upgrade', upgrade: 'websocket', 'sec-websocket-version': '13' }
  const key = { 'sec-websocket-key': Buffer.alloc(16).toString('base64') }
  expect(await node.ask('GET', `/p/${box.id}/9/`, { headers: { ...upgrade, ...key } })).toMatchObject({
    status: 502,
    code: 'port_closed',
  })
  await expect(connectLive(node, box.id, 'tunnel/9')).rejects.toMatchObject({ status: 502, code: 'port_closed' })
  const user = await openSshUser(node.sshPort)
  await node.ask('POST', '/api/v1/ssh-keys', { json: { name: 'test', publicKey: user.publicKey } })
  const forwarded = await user.ssh(['-W', 'localhost:9', `${box.id}@127.0.0.1`])
  expect(forwarded).toMatchObject({ code: 255, stdout: '' })
})
