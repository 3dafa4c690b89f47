import { statfs } from 'node:fs/promises'
import { totalmem } from 'node:os'
import type { Engine } from '@bramble/engine'
import {
  executionSpecSchema,
  type Isolation,
  isolationSchema,
  type Labels,
  type NodeReport,
  toBrambleError,
} from '@bramble/protocol'
import { grantedCpus } from './cpu-grant.ts'
import { probeGpus } from './gpus.ts'
import { machineFingerprint } from './machine.ts'
import { platformOf } from './platform.ts'

const MIB = 1024 * 1024
const MAX_IMAGES = 256
/** Executions of `true` that are timed, at most; fewer where they are slow. */
const TIMED_RUNS = 20
const TIMING_MS = 2000
const SLOTS_PER_CPU = 2

export interface MeasureOptions {
  readonly engine: Engine
  readonly tenant: string
  readonly dataDirectory: string
  readonly version: string
  /** Default two a processor. */
  readonly slots?: number | undefined
  readonly region?: string | undefined
  readonly labels?: Labels | undefined
  /** Where its gateway is reached. */
  readonly url?: string | undefined
}

/** Runs `true`; false where this node cannot run it that way. */
const runsTrue = async (engine: Engine, tenant: string, isolation?: Isolation): Promise<boolean> => {
  try {
    const spec = executionSpecSchema.parse({ command: ['true'], ...(isolation && { isolation }) })
    return (await engine.execute(spec, { tenant, keyId: tenant }).result).exitCode === 0
  } catch (error) {
    const { code } = toBrambleError(error)
    if (code === 'unsupported' || code === 'no_isolation' || code === 'image_not_found') return false
    throw error
  }
}

const isolations = async (engine: Engine, tenant: string): Promise<Isolation[]> => {
  const found: Isolation[] = []
  for (const isolation of isolationSchema.options) if (await runsTrue(engine, tenant, isolation)) found.push(isolation)
  return found
}

/** Executions of `true` a second, one after the other; 0 where it cannot be run. */
const speedOf = async (engine: Engine, tenant: string): Promise<number> => {
  if (!(await runsTrue(engine, tenant))) return 0
  const began = performance.now()
  let runs = 0
  while (runs < TIMED_RUNS && performance.now() - began < TIMING_MS && (await runsTrue(engine, tenant))) runs++
  return Math.round((runs * 10_000) / (performance.now() - began)) / 10
}

export const imagesOf = (engine: Engine): NodeReport['images'] =>
  engine.images
    .list()
    .slice(0, MAX_IMAGES)
    .map(({ names: [name], digest }) => ({ digest, ...(name !== undefined && { name }) }))

/** What this node has and can do, as far as that can be found out by trying. */
export const measureNode = async (options: MeasureOptions): Promise<NodeReport> => {
  const { engine, tenant, dataDirectory, version, region, labels = {}, url } = options
  const cpus = grantedCpus()
  const memory = Math.min(process.constrainedMemory() || Number.POSITIVE_INFINITY, totalmem())
  const disk = await statfs(dataDirectory)
  const runtimes = engine.status().runtimes.filter(({ available }) => available)
  return {
    version,
    cpus,
    memoryMb: Math.max(1, Math.floor(memory / MIB)),
    diskMb: Math.floor((disk.bavail * disk.bsize) / MIB),
    slots: options.slots ?? Math.max(1, Math.round(cpus * SLOTS_PER_CPU)),
    gpus: await probeGpus(engine, tenant),
    isolation: await isolations(engine, tenant),
    labels,
    images: imagesOf(engine),
    speed: await speedOf(engine, tenant),
    machine: machineFingerprint(),
    platform: platformOf(runtimes.map(({ name }) => name)),
    ...(region !== undefined && { region }),
    ...(url !== undefined && { url }),
  }
}
