import { nodeTable } from '@bramble/coordinator/placement'
import { nodeReportSchema } from '@bramble/protocol'
import { figuresOf, printTable, type Row, round } from '../run/measure.ts'

type NodeTable = ReturnType<typeof nodeTable>
type PlacedNode = Parameters<NodeTable['set']>[0]
type Request = Parameters<NodeTable['choose']>[0]

const regions = ['eu-1', 'eu-2', 'us-1', 'us-2', 'asia-1']
const images = ['base', 'python', 'node'].map((name, index) => ({ name, digest: `sha256:${`${index}`.repeat(64)}` }))

/** A node of a mixed fleet; two in three hundred have a GPU. */
const nodeAt = (index: number): PlacedNode => ({
  id: `0x${index.toString(16).padStart(40, '0')}` as PlacedNode['id'],
  owner: `owner-${index % 5000}`,
  subnet: `10.${(index >> 8) & 255}.${index & 255}.0/24`,
  status: 'online',
  established: index % 3 !== 0,
  agreements: index % 40,
  trust: (index % 100) / 100,
  speed: 0.5 + (index % 10) / 10,
  maxRunning: 64,
  report: nodeReportSchema.parse({
    version: '1',
    cpus: [2, 4, 8, 16][index % 4],
    memoryMb: [4096, 8192, 16_384, 65_536][index % 4],
    diskMb: 100_000,
    slots: [2, 4, 8, 16][index % 4],
    gpus: index % 150 === 0 ? [{ model: 'l4', memoryMb: 24_000 }] : [],
    isolation: index % 2 === 0 ? ['container', 'gvisor'] : ['container'],
    region: regions[index % regions.length],
    labels: { tier: `${index % 3}` },
    images: images.slice(0, 1 + (index % 3)),
    machine: `machine-${index}`,
    platform: 'linux-x64',
  }),
})

const plain = {
  job: 'job_00000000000000000000000000' as Request['job'],
  need: { cpus: 1, memoryMb: 512, gpus: 0 },
  image: { name: 'base' },
  established: false,
  others: [],
  distinct: ['owner', 'machine', 'subnet'],
  failed: [],
} as const satisfies Request

const placeAll = (table: NodeTable, requestAt: (index: number) => Request, decisions: number): number[] => {
  const times: number[] = []
  const running: { id: PlacedNode['id']; need: Request['need'] }[] = []
  for (let index = 0; index < decisions; index++) {
    const request = requestAt(index)
    const began = performance.now()
    const choice = table.choose(request)
    times.push(performance.now() - began)
    if (!('node' in choice)) continue
    table.reserve(choice.node.id, request.need)
    running.push({ id: choice.node.id, need: request.need })
    // So many run at once that nodes are in all states, and none is left without room.
    const ended = running.length > 500 ? running.shift() : undefined
    if (ended) table.release(ended.id, ended.need)
  }
  return times
}

/** What one decision of placement costs, by how many nodes there are and how rare what is asked is. */
export const placement = async ({ quick }: { readonly quick: boolean }): Promise<Row[]> => {
  const rows: Row[] = []
  const decisions = quick ? 2000 : 20_000
  for (const nodes of quick ? [1000, 10_000] : [1000, 10_000, 100_000]) {
    const table = nodeTable({ random: Math.random })
    for (let index = 0; index < nodes; index++) table.set(nodeAt(index))
    const other = nodeAt(1)
    const others = [{ ...other, node: other.id, machine: other.report.machine }]
    const cases: readonly [name: string, requestAt: (index: number) => Request][] = [
      ['any node', () => plain],
      [
        'second copy, one region, established',
        (index) => ({ ...plain, others, established: true, regions: [regions[index % regions.length] ?? ''] }),
      ],
      ['a GPU that few have', () => ({ ...plain, need: { cpus: 0.1, memoryMb: 64, gpus: 0 }, gpuModel: 'l4' })],
      ['more than any node has', () => ({ ...plain, need: { cpus: 32, memoryMb: 512, gpus: 0 } })],
    ]
    for (const [name, requestAt] of cases) {
      const isHopeless = requestAt(0).need.cpus > 16
      placeAll(table, requestAt, decisions / 10)
      const { p50, p99, n } = figuresOf(
        placeAll(table, requestAt, isHopeless ? decisions / 100 : decisions).map((ms) => ms * 1000),
      )
      rows.push({
        name: `placement, ${nodes} nodes: ${name}`,
        figures: { p50Us: round(p50), p99Us: round(p99), n },
        // What no node can do is found out once, and asked again only when a node changes.
        ...(!isHopeless && { goal: 'p50 <= 1 ms', reached: p50 <= 1000 }),
      })
    }
  }
  return rows
}

if (import.meta.main) printTable(await placement({ quick: process.argv.includes('--quick') }))
