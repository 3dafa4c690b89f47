import { type JobId, type NodeId, newId, nodeReportSchema } from '@bramble/protocol'
import type { Standing } from '../core/job-state.ts'
import type { ChooseRequest, PlacedNode } from './placement.ts'

/** Random numbers that are the same for the same seed (mulberry32). */
export const seededRandom = (seed: number): (() => number) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

export const nodeIdAt = (index: number): NodeId => `0x${index.toString(16).padStart(40, '0')}` as NodeId

type NodeFields = Partial<Omit<PlacedNode, 'report'>> & { readonly report?: Record<string, unknown> }

/** A node with nothing special: what is given replaces its fields. */
export const placedNode = (index: number, { report, ...fields }: NodeFields = {}): PlacedNode => ({
  id: nodeIdAt(index),
  owner: `owner-${index}`,
  subnet: `10.${index >> 8}.${index & 255}.0/24`,
  status: 'online',
  established: true,
  agreements: 10,
  trust: 0.8,
  speed: 1,
  maxRunning: 64,
  ...fields,
  report: nodeReportSchema.parse({
    version: '1',
    cpus: 8,
    memoryMb: 16_384,
    diskMb: 100_000,
    slots: 8,
    isolation: ['container'],
    machine: `machine-${index}`,
    platform: 'linux-x64',
    images: [{ name: 'base', digest: `sha256:${'a'.repeat(64)}` }],
    ...report,
  }),
})

export const jobIdAt = (milliseconds: number, random = seededRandom(milliseconds)): JobId =>
  newId('job', {
    now: () => milliseconds,
    random: (bytes) => {
      for (let at = 0; at < bytes.length; at++) bytes[at] = Math.floor(random() * 256)
    },
  })

export const standingOf = (node: PlacedNode): Standing => ({
  node: node.id,
  owner: node.owner,
  machine: node.report.machine,
  subnet: node.subnet,
  established: node.established,
  agreements: node.agreements,
})

export const chooseRequest = (fields: Partial<ChooseRequest> = {}): ChooseRequest => ({
  job: jobIdAt(1),
  need: { cpus: 1, memoryMb: 512, gpus: 0 },
  image: { name: 'base' },
  established: false,
  others: [],
  distinct: ['owner', 'machine', 'subnet'],
  failed: [],
  ...fields,
})
