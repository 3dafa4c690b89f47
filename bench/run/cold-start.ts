import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { findCgroups } from '@bramble/runtime'
import { startNodeProcess } from '../../test/node-process.ts'
import { baseRootfs } from './base-image.ts'
import { figuresOf, quantile, type Row, round } from './measure.ts'

const BARE = fileURLToPath(new URL('./bare-crun-process.ts', import.meta.url))

/** A process in a mount namespace where crun works, that runs one bare start for each line and answers its time. */
const startBare = (rootfs: string): { once(): Promise<number>; process: ChildProcess } => {
  const hide = findCgroups()?.unified
  const script = `mount --make-rprivate /; ${hide ? `umount -l ${hide};` : ''} exec "$@"`
  const child = spawn('unshare', ['-m', 'sh', '-c', script, 'sh', process.execPath, BARE, rootfs], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  return {
    process: child,
    once: async () => {
      child.stdin.write('\n')
      const { value, done } = await lines.next()
      if (done) throw new Error('the bare start ended')
      return Number(value)
    },
  }
}

/**
 * `true` over HTTP with no pooled sandbox to take (every request asks for limits that nobody asked for before), against
 * the least that anyone pays: an overlay mount and `crun run`, spawned from Node. One of each in turn.
 */
export const coldStart = async (options: { quick: boolean }): Promise<Row[]> => {
  const rounds = options.quick ? 30 : 150
  await using node = await startNodeProcess({ BRAMBLE_MAX_POOLED: '0' })
  const bare = startBare(baseRootfs(node))
  const ours: number[] = []
  const theirs: number[] = []
  try {
    for (let i = -5; i < rounds; i++) {
      const began = performance.now()
      await node.call('POST', '/api/v1/execute', { command: ['true'], resources: { diskMb: 1000 + i } })
      const mine = performance.now() - began
      const bareMs = await bare.once()
      // The first few warm both sides up.
      if (i >= 0) ours.push(mine)
      if (i >= 0) theirs.push(bareMs)
    }
  } finally {
    bare.process.stdin?.end()
  }
  const ratio = quantile(ours, 0.5) / quantile(theirs, 0.5)
  return [
    {
      name: 'execute `true` over HTTP, pool empty',
      figures: { ...figuresOf(ours), unit: 'ms', timesBare: round(ratio) },
      goal: 'p50 <= 1.5 times bare',
      reached: ratio <= 1.5,
    },
    { name: 'bare: mount overlay + crun run from Node', figures: { ...figuresOf(theirs), unit: 'ms' } },
  ]
}
