import { type NodeProcess, startNodeProcess } from '../../test/node-process.ts'
import { deleteInstance, onMessage, openSocket, startInstance } from '../live/instance.ts'
import { figuresOf, quantile, type Row, round } from '../run/measure.ts'

const RESOURCES = { cpus: 2, memoryMb: 1024, diskMb: 4096, pids: 256 }
const SMALL_DISK_MB = 10
const LARGE_DISK_MB = 1024
/** How much a run may be slower where the sandbox has written a hundred times more. */
const MAX_SLOWDOWN = 1.3
const TEN = 10
/** What a sandbox does before it is branched: a shell whose child is a command; and four of those with 12.5 MB each. */
const SHELL = 'while true; do sleep 1000; done'
const LARGE = `mkfifo /tmp/wait; for i in 1 2 3 4; do awk 'BEGIN { s = sprintf("%12500000s", "x"); print "ready"; fflush(); getline < "/tmp/wait" }' & done; wait`

interface Branches {
  readonly items: readonly { readonly instanceId: string; readonly memory: boolean }[]
  readonly frozenMs?: number
}

interface Subject {
  readonly name: string
  readonly memory: boolean
  readonly command?: string
  readonly ready: number
  readonly goalMs: number
  readonly frozenGoalMs?: number
}

const SUBJECTS: readonly Subject[] = [
  { name: 'a shell and its child, with memory', memory: true, command: SHELL, ready: 0, goalMs: 100, frozenGoalMs: 60 },
  { name: '50 MB in 4 processes, with memory', memory: true, command: LARGE, ready: 4, goalMs: 250, frozenGoalMs: 200 },
  { name: 'files alone', memory: false, ready: 0, goalMs: 40 },
]

/** Starts the command in the instance, and waits until it has said `ready` so often. */
const startCommand = async (node: NodeProcess, id: string, command: string, ready: number): Promise<void> => {
  await using socket = await openSocket(node, `/api/v1/instances/${id}/stream?processes=false`)
  const begun = Promise.withResolvers<void>()
  let said = 0
  onMessage(socket, ({ type, data = '' }) => {
    if (type === 'stdout') said += data.split('ready').length - 1
    if (type === 'started' && ready === 0) begun.resolve()
    if (ready > 0 && said >= ready) begun.resolve()
  })
  socket.send({ type: 'exec', command, stdin: false })
  await begun.promise
}

const exec = async (node: Pick<NodeProcess, 'call'>, id: string, command: string): Promise<string> => {
  const { exitCode, stdout } = await node.call<{ exitCode: number; stdout: string }>(
    'POST',
    `/api/v1/instances/${id}/exec`,
    { command, timeoutMs: 120_000 },
  )
  if (exitCode !== 0) throw new Error(`${command} ended with ${exitCode}`)
  return stdout
}

/** From the request to the answer of a command in the branch. */
const branchOnce = async (node: NodeProcess, parent: string, memory: boolean) => {
  const began = performance.now()
  const { items, frozenMs } = await node.call<Branches>('POST', '/api/v1/branches', { parent, count: 1, memory })
  const [branch] = items
  if (branch === undefined || branch.memory !== memory) throw new Error('not the branch that was asked for')
  await exec(node, branch.instanceId, 'true')
  const tookMs = performance.now() - began
  await deleteInstance(node, branch.instanceId)
  return { tookMs, frozenMs: frozenMs ?? 0 }
}

const branchTen = async (node: NodeProcess, parent: string, memory: boolean): Promise<number> => {
  const began = performance.now()
  const { items } = await node.call<Branches>('POST', '/api/v1/branches', { parent, count: TEN, memory })
  const clients = items.map(() => node.client())
  await Promise.all(items.map(({ instanceId }, i) => exec(clients[i] ?? node, instanceId, 'true')))
  const tookMs = performance.now() - began
  for (const client of clients) client.close()
  for (const { instanceId } of items) await deleteInstance(node, instanceId)
  return tookMs
}

const write = (node: NodeProcess, id: string, megabytes: number): Promise<string> =>
  exec(
    node,
    id,
    `i=0; while [ $i -lt ${megabytes} ]; do head -c 1000000 /dev/urandom > /root/$i; i=$((i+1)); done; echo done`,
  )

const measure = async (node: NodeProcess, subject: Subject, quick: boolean): Promise<Row[]> => {
  const { name, memory, command, ready, goalMs, frozenGoalMs } = subject
  const start = async (megabytes: number): Promise<string> => {
    const id = await startInstance(node, { image: 'base', resources: RESOURCES })
    await write(node, id, megabytes)
    if (command !== undefined) await startCommand(node, id, command, ready)
    // The first has the writes to wait for that the kernel still held back.
    await branchOnce(node, id, memory)
    return id
  }
  const [small, large] = [await start(SMALL_DISK_MB), await start(LARGE_DISK_MB)]
  const times = { small: [] as number[], large: [] as number[], ten: [] as number[], frozen: [] as number[] }
  for (let i = 0; i < (quick ? 5 : 30); i++) {
    const one = await branchOnce(node, small, memory)
    times.small.push(one.tookMs)
    times.frozen.push(one.frozenMs)
    times.large.push((await branchOnce(node, large, memory)).tookMs)
    if (i % 5 === 0) times.ten.push(await branchTen(node, small, memory))
  }
  for (const id of [small, large]) await deleteInstance(node, id)
  const p50 = quantile(times.small, 0.5)
  const slowdown = quantile(times.large, 0.5) / p50
  const ten = quantile(times.ten, 0.5)
  const frozen = quantile(times.frozen, 0.5)
  return [
    {
      name: `branch of ${name}, to the answer of an exec`,
      figures: { ...figuresOf(times.small), unit: 'ms' },
      goal: `p50 <= ${goalMs} ms`,
      reached: p50 <= goalMs,
    },
    {
      name: `the same, having written ${LARGE_DISK_MB} MB instead of ${SMALL_DISK_MB}`,
      figures: { ...figuresOf(times.large), unit: 'ms', times: round(slowdown) },
      goal: `<= ${MAX_SLOWDOWN} times`,
      reached: slowdown <= MAX_SLOWDOWN,
    },
    {
      name: `ten branches of ${name} at once`,
      figures: { ...figuresOf(times.ten), unit: 'ms', timesOfOne: round(ten / p50) },
      goal: '<= 4 times one',
      reached: ten / p50 <= 4,
    },
    ...(frozenGoalMs === undefined
      ? []
      : [
          {
            name: `how long the parent stood still (${name})`,
            figures: { ...figuresOf(times.frozen), unit: 'ms' },
            goal: `p50 <= ${frozenGoalMs} ms`,
            reached: frozen <= frozenGoalMs,
          },
        ]),
  ]
}

/** Branches of running instances over HTTP, one client. */
export const branches = async ({ quick }: { quick: boolean }): Promise<Row[]> => {
  await using node = await startNodeProcess()
  const rows: Row[] = []
  for (const subject of SUBJECTS) rows.push(...(await measure(node, subject, quick)))
  return rows
}
