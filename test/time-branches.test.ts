import { once } from 'node:events'
import { createServer, type Server } from 'node:net'
import { networkInterfaces } from 'node:os'
import type { Branch, BranchesResponse, ExecResult, Instance, Problem, Snapshot } from '@bramble/protocol'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { connectLive, connectStream, type LiveSocket } from './live-socket.ts'
import { makeProgramImage } from './time-image.ts'
import { call, importImage, lines } from './time-node.ts'

/** Branches of what runs, over HTTP. */

/** Holds one of everything, and says of each what became of it when it is told a word. */
const HOLDER = `
import json, os, pty, signal, socket, subprocess, sys, threading, time
ticks = turns = 0
def tick(*_):
    global ticks
    ticks += 1
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
def turn():
    global turns
    while True:
        turns += 1
        time.sleep(0.01)
threading.Thread(target=turn, daemon=True).start()
read, write = os.pipe()
os.write(write, b'piped ')
left, right = socket.socketpair()
left.send(b'paired ')
unix = socket.socket(socket.AF_UNIX)
unix.bind('/tmp/unix')
unix.listen()
tcp = socket.create_server(('127.0.0.1', 8001))
master, slave = pty.openpty()
subprocess.Popen(['cat'], stdin=slave, stdout=slave, start_new_session=True)
child = subprocess.Popen(['sh', '-c', 'n=0; while read x; do n=$((n+1)); echo $n $x; done'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
gone = open('/tmp/gone', 'w+')
gone.write('deleted ')
gone.flush()
os.unlink('/tmp/gone')
def ask(server, family, address, word):
    client = socket.socket(family)
    client.connect(address)
    taken, _ = server.accept()
    client.send(word)
    return taken.recv(99).decode()
def until_more(count):
    before = count()
    while count() <= before: time.sleep(0.005)
    return True
print('ready', flush=True)
for line in sys.stdin:
    word = line.strip().encode()
    os.write(write, word)
    left.send(word)
    os.write(master, word + b'\\n')
    child.stdin.write(word + b'\\n')
    child.stdin.flush()
    gone.write(word.decode())
    gone.flush()
    gone.seek(0)
    shown = b''
    while shown.count(word) < 2: shown += os.read(master, 99)
    print(json.dumps({
        'pipe': os.read(read, 99).decode(),
        'pair': right.recv(99).decode(),
        'unix': ask(unix, socket.AF_UNIX, '/tmp/unix', word),
        'tcp': ask(tcp, socket.AF_INET, ('127.0.0.1', 8001), word),
        'pty': True,
        'child': child.stdout.readline().decode().strip(),
        'deleted': gone.read(),
        'timer': until_more(lambda: ticks),
        'thread': until_more(lambda: turns),
    }), flush=True)
`
const held = (word: string) => ({
  ...{ pipe: `piped ${word}`, pair: `paired ${word}`, unix: word, tcp: word, pty: true, child: `1 ${word}` },
  ...{ deleted: `deleted ${word}`, timer: true, thread: true },
})
const COUNTER = 'i=0; while :; do i=$((i+1)); echo $i; usleep 2000; done'
const WATCHER = `
const { watch, writeFileSync } = require('node:fs')
watch('/root', (event, name) => console.log(event, name))
console.log('watches')
`
const ALL = { query: 'since=0&processes=false' }

let skip: string | undefined
let node: LiveNode
let python = ''
let service: Server

const hostAddress = (): string =>
  Object.entries(networkInterfaces())
    .filter(([name]) => !/^br[0-9a-f]{7}-/.test(name))
    .flatMap(([, addresses]) => addresses ?? [])
    .find(({ family, internal }) => family === 'IPv4' && !internal)?.address ?? ''

beforeAll(async () => {
  const image = await makeProgramImage(['python', 'node'])
  const opened = 'skip' in image ? image : await openLiveNode({ checkpoint: true })
  if ('skip' in opened) {
    skip = opened.skip
    return
  }
  node = opened as LiveNode
  if ('skip' in image) return
  python = image.python
  await importImage(node, image, 'programs')
  service = createServer((socket) => socket.on('error', () => {}).end('served')).listen(0, '0.0.0.0')
  await once(service, 'listening')
})
afterAll(async () => {
  service?.close()
  await node?.[Symbol.asyncDispose]()
})
beforeEach((context) => {
  if (skip !== undefined) context.skip(skip)
})
afterEach(async () => {
  if (skip !== undefined) return
  const { items } = await call<{ items: Instance[] }>(node, 'GET', 'instances?limit=100')
  await Promise.all(items.map(({ id }) => call(node, 'DELETE', `instances/${id}`)))
})

const branch = (parent: string, request: object): Promise<BranchesResponse> =>
  call(node, 'POST', 'branches', { parent, ...request })
const idsOf = ({ items }: { items: readonly Branch[] }): string[] => items.map(({ instanceId }) => instanceId)
const numbers = (count: number): string[] => Array.from({ length: count }, (_, index) => `${index + 1}`)

/** The numbers of a counter, from the first on: none is missing, none comes twice. */
const expectCounting = async (stream: LiveSocket, enough: number): Promise<number> => {
  const all = await lines(stream, 'counter', enough)
  expect(all).toEqual(numbers(all.length))
  return all.length
}

test('all that a program holds goes on in the parent and in each branch, by itself', async () => {
  const box = await node.start({ image: 'programs', resources: { memoryMb: 256 } })
  using stream = await connectStream(node, box.id, ALL)
  stream.send({ type: 'exec', id: 'holder', command: [python, '-c', HOLDER], stdin: true })
  await lines(stream, 'holder', 1)
  const response = await branch(box.id, { count: 2, memory: true })
  expect(response.frozenMs).toBeGreaterThan(0)
  expect(response.items.map(({ memory }) => memory)).toEqual([true, true])
  for (const [index, id] of [...idsOf(response), box.id].entries()) {
    using each = await connectStream(node, id, ALL)
    each.send({ type: 'stdin', id: 'holder', data: `word${index}\n` })
    const [, said = ''] = await lines(each, 'holder', 2)
    expect(JSON.parse(said)).toEqual(held(`word${index}`))
  }
})

test('streams, an exec and a terminal of the parent notice nothing; the branches go on counting', async () => {
  const box = await node.start({})
  using stream = await connectStream(node, box.id, ALL)
  stream.send({ type: 'exec', id: 'counter', command: COUNTER })
  await expectCounting(stream, 10)
  using pty = await connectLive(node, box.id, 'pty?cols=80&rows=24&cmd=cat')
  await pty.until(() => pty.messages.length > 0)
  pty.send(Buffer.from('before\r'))
  await pty.until(() => pty.bytes().includes('before\r\nbefore'))
  const command = 'i=0; until test -e /root/enough; do i=$((i+1)); echo $i; usleep 1000; done'
  const exec = call<ExecResult>(node, 'POST', `instances/${box.id}/exec`, { command })
  // It is waited for below; what breaks before that is told first.
  exec.catch(() => undefined)
  const branches: string[] = []
  const snapshots: Snapshot[] = []
  for (let turn = 0; turn < 3; turn++) {
    const at = stream.output('counter').split('\n').length
    branches.push(...idsOf(await branch(box.id, { count: 1, memory: true })))
    snapshots.push(await call<Snapshot>(node, 'POST', `instances/${box.id}/snapshot`, { memory: true }))
    pty.send(Buffer.from(`turn ${turn}\r`))
    await pty.until(() => pty.bytes().includes(`turn ${turn}\r\nturn ${turn}`))
    await expectCounting(stream, at + 20)
  }
  stream.send({ type: 'checkpoint', id: 'mine', memory: true })
  const { snapshotId } = await stream.event('checkpoint', ({ id }) => id === 'mine')
  await node.sh(box.id, 'touch /root/enough')
  const { stdout, exitCode } = await exec
  expect(exitCode).toBe(0)
  expect(stdout.split('\n').slice(0, -1)).toEqual(numbers(stdout.split('\n').length - 1))
  const seqs = stream.messages.flatMap(({ seq, type }) => (type !== 'state' && typeof seq === 'number' ? [seq] : []))
  expect(seqs).toEqual(seqs.map((_, index) => index + 1))
  for (const { id } of [...snapshots, { id: snapshotId }].slice(-2)) {
    const restored = await call<Instance>(node, 'POST', `snapshots/${id}/restore`, { memory: true })
    branches.push(restored.id)
  }
  for (const id of branches) {
    using each = await connectStream(node, id, ALL)
    const before = (await lines(each, 'counter', 1)).length
    await expectCounting(each, before + 20)
    // What an exec had begun ended with its answer, which is the parent's.
    expect(await node.sh(id, "ps -o args | grep -c '[t]est -e /root/enough' || true")).toBe('0\n')
  }
})

test('each branch is a machine of its own: name, address, entropy, way out', async () => {
  const address = hostAddress()
  const { port } = service.address() as { port: number }
  const box = await node.start({ network: { allow: [`${address}/32`] }, name: 'parent' })
  using stream = await connectStream(node, box.id, ALL)
  stream.send({ type: 'exec', id: 'counter', command: COUNTER })
  await expectCounting(stream, 1)
  const fetched = `nc -w 2 ${address} ${port} < /dev/null`
  const said = 'hostname; ip -4 -o addr show eth0 | awk "{print \\$4}"; cat /proc/sys/kernel/random/uuid'
  const ids = [box.id, ...idsOf(await branch('parent', { count: 3, memory: true }))]
  const about = await Promise.all(ids.map(async (id) => (await node.sh(id, said)).split('\n')))
  for (const column of [0, 1, 2]) expect(new Set(about.map((words) => words[column])).size).toBe(4)
  expect(await Promise.all(ids.map((id) => node.sh(id, fetched)))).toEqual(ids.map(() => 'served'))
  for (const id of ids) {
    expect(await node.sh(id, 'grep -c "$(hostname)" /etc/hosts')).toBe('1\n')
    expect(await node.sh(id, 'grep -c nameserver /etc/resolv.conf')).toBe('1\n')
  }
  // Of those without memory, too; and one may be given another network, or none.
  const [files = ''] = idsOf(await branch('parent', { count: 1, memory: false }))
  expect(await node.sh(files, fetched)).toBe('served')
  const [alone = ''] = idsOf(await branch('parent', { count: 1, memory: true, network: 'none' }))
  expect(await node.sh(alone, `${fetched} 2>/dev/null || echo none`)).toBe('none\n')
})

test('what cannot be saved is named, and goes on; its files can be', async () => {
  const box = await node.start({ image: 'programs', resources: { memoryMb: 512 } })
  using stream = await connectStream(node, box.id, ALL)
  stream.send({ type: 'exec', id: 'watcher', command: ['node', '-e', WATCHER] })
  await lines(stream, 'watcher', 1)
  for (const path of ['branches', 'snapshots', `instances/${box.id}/pause`]) {
    const json =
      path === 'branches'
        ? { parent: box.id, count: 2, memory: true }
        : path === 'snapshots'
          ? { instanceId: box.id, memory: true }
          : { snapshot: true }
    const answer = await node.ask('POST', `/api/v1/${path}`, { json })
    expect([answer.status, answer.code], answer.text).toEqual([409, 'checkpoint_refused'])
    expect(answer.json<Problem>().detail).toMatch(/process \d+ \(node -e/)
    expect(answer.json<Problem>().detail).toMatch(/watches files/)
  }
  await node.sh(box.id, 'touch /root/new')
  expect((await lines(stream, 'watcher', 2))[1]).toBe('rename new')
  const { items } = await branch(box.id, { count: 1 })
  expect(items[0]?.memory).toBe(false)
  expect(await node.sh(items[0]?.instanceId ?? '', 'ls /root')).toBe('new\n')
  const { items: instances } = await call<{ items: Instance[] }>(node, 'GET', 'instances')
  expect(instances.map(({ status }) => status)).toEqual(['running', 'running'])
})

test('ten at once, and branches of branches, each with what was known at its fork', async () => {
  const box = await node.start({})
  using stream = await connectStream(node, box.id, ALL)
  const shell = 'all=; while read line; do all="$all$line"; echo $all; done'
  stream.send({ type: 'exec', id: 'shell', command: shell, stdin: true })
  const tell = async (id: string, word: string): Promise<string | undefined> => {
    using each = await connectStream(node, id, ALL)
    const { commands, window } = await each.event('state')
    expect(commands.map((command) => command.id)).toContain('shell')
    await each.until(() => window.last === 0 || each.messages.some(({ seq }) => seq === window.last))
    const before = each.output('shell').split('\n').length - 1
    each.send({ type: 'stdin', id: 'shell', data: `${word}\n` })
    return (await lines(each, 'shell', before + 1))[before]
  }
  await stream.event('started')
  expect(await tell(box.id, 'a')).toBe('a')
  const ten = idsOf(await branch(box.id, { count: 10, memory: true }))
  const letters = [...'bcdefghijk']
  expect(await Promise.all(ten.map((id, index) => tell(id, letters[index] ?? '')))).toEqual(letters.map((x) => `a${x}`))
  const [first = '', second = ''] = ten
  const [child = ''] = idsOf(await branch(first, { count: 1, memory: true }))
  const [grandchild = ''] = idsOf(await branch(child, { count: 1, memory: true }))
  // What branches came from may go; they have all of it.
  await call(node, 'DELETE', `instances/${first}`)
  await call(node, 'DELETE', `instances/${child}`)
  expect(await tell(grandchild, 'x')).toBe('abx')
  expect(await tell(second, 'y')).toBe('acy')
  expect(await tell(box.id, 'z')).toBe('az')
  const { items } = await call<{ items: Branch[] }>(node, 'GET', `branches?parent=${first}`)
  expect(items.map(({ instanceId, parent }) => [instanceId, parent])).toEqual([
    [child, first],
    [grandchild, child],
  ])
})
