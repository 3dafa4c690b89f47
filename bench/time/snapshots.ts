import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type NodeProcess, startNodeProcess } from '../../test/node-process.ts'
import { deleteInstance, startInstance } from '../live/instance.ts'
import { quantile, type Row, round, timed } from '../run/measure.ts'

const FILES = 2000
const FILE_BYTES = 100_000
const TREE_BYTES = FILES * FILE_BYTES
/** Every hundredth file, another content: 1% of the bytes. */
const CHANGED_EVERY = 100
const MAX_ADDED = 0.03

/** Makes the tree, and changes it; the same words for a sandbox and for the host. */
const make = (root: string): string =>
  `mkdir -p ${root}; cd ${root}; i=0; while [ $i -lt ${FILES} ]; do d=d$((i/100)); mkdir -p $d; head -c ${FILE_BYTES} /dev/urandom > $d/f$i; i=$((i+1)); done`
const change = (root: string): string =>
  `cd ${root}; i=0; while [ $i -lt ${FILES} ]; do head -c ${FILE_BYTES} /dev/urandom > d$((i/100))/f$i; i=$((i+${CHANGED_EVERY})); done`

const exec = (node: NodeProcess, id: string, command: string): Promise<unknown> =>
  node.call('POST', `/api/v1/instances/${id}/exec`, { command, timeoutMs: 120_000 })

interface Taken {
  readonly firstMs: number
  readonly secondMs: number
  readonly firstBytes: number
  readonly addedBytes: number
}

const byUs = async (node: NodeProcess): Promise<Taken> => {
  const id = await startInstance(node, { image: 'base', resources: { cpus: 2, memoryMb: 512, diskMb: 2048 } })
  const take = async (): Promise<number> =>
    (await node.call<{ addedBytes: number }>('POST', '/api/v1/snapshots', { instanceId: id, memory: false })).addedBytes
  await exec(node, id, make('/root/tree'))
  let firstBytes = 0
  let addedBytes = 0
  const firstMs = await timed(async () => {
    firstBytes = await take()
  })
  await exec(node, id, change('/root/tree'))
  const secondMs = await timed(async () => {
    addedBytes = await take()
  })
  await deleteInstance(node, id)
  return { firstMs, secondMs, firstBytes, addedBytes }
}

const run = promisify(execFile)

/** `restic backup` of two states of one directory, into a repository on the same disk. */
const byRestic = async (): Promise<Taken> => {
  const base = await mkdtemp(join(tmpdir(), 'bramble-bench-restic-'))
  try {
    const tree = join(base, 'tree')
    const repository = join(base, 'repository')
    const env = { ...process.env, RESTIC_PASSWORD: 'bench', RESTIC_CACHE_DIR: join(base, 'cache') }
    const restic = (...args: string[]) => run('restic', ['--repo', repository, '--quiet', ...args], { env })
    const stored = async (): Promise<number> =>
      Number((await run('du', ['-sb', join(repository, 'data')])).stdout.split('\t')[0]) +
      Number((await run('du', ['-sb', join(repository, 'index')])).stdout.split('\t')[0])
    await restic('init')
    await run('sh', ['-c', make(tree)])
    const firstMs = await timed(() => restic('backup', tree))
    const firstBytes = await stored()
    await run('sh', ['-c', change(tree)])
    const secondMs = await timed(() => restic('backup', tree))
    return { firstMs, secondMs, firstBytes, addedBytes: (await stored()) - firstBytes }
  } finally {
    await rm(base, { recursive: true, force: true })
  }
}

/** Snapshots over HTTP of two states of a tree, against restic on the same two states of one on the host, in turns. */
export const snapshots = async ({ quick }: { quick: boolean }): Promise<Row[]> => {
  await using node = await startNodeProcess()
  const ours: Taken[] = []
  const theirs: Taken[] = []
  for (let i = 0; i < (quick ? 1 : 5); i++) {
    ours.push(await byUs(node))
    theirs.push(await byRestic())
  }
  const median = (all: readonly Taken[], of: keyof Taken): number =>
    quantile(
      all.map((one) => one[of]),
      0.5,
    )
  const figures = (all: readonly Taken[]) => ({
    firstMs: round(median(all, 'firstMs'), 0),
    secondMs: round(median(all, 'secondMs'), 0),
    firstBytes: median(all, 'firstBytes'),
    addedBytes: median(all, 'addedBytes'),
    n: all.length,
  })
  const added = median(ours, 'addedBytes') / TREE_BYTES
  const noMore = median(ours, 'addedBytes') <= median(theirs, 'addedBytes')
  const noSlower = (['firstMs', 'secondMs'] as const).every((of) => median(ours, of) <= median(theirs, of))
  return [
    {
      name: `snapshots of ${TREE_BYTES / 1e6} MB in ${FILES} files, before and after 1% changed`,
      figures: { ...figures(ours), addedPercent: round(added * 100) },
      goal: 'adds <= 3%',
      reached: added <= MAX_ADDED,
    },
    {
      name: 'restic backup of the same two states',
      figures: figures(theirs),
      goal: 'no fewer bytes than ours, no faster',
      reached: noMore && noSlower,
    },
  ]
}
