import { BrambleError, type ExecutionSpec } from '@bramble/protocol'
import type { Capabilities } from '@bramble/runtime'
import { leavesSnapshot } from './snapshots/execution-states.ts'

/** What may be asked for beside what every node has. */
export interface Offer {
  readonly capabilities: Capabilities
  /** Named volumes and dependency caches. */
  readonly volumes: boolean
}

interface Missing {
  readonly what: string
  readonly asked: (spec: ExecutionSpec, offer: Offer) => boolean
}

const networkOf = ({ network }: ExecutionSpec): 'none' | 'egress' | 'allow' =>
  typeof network === 'string' ? network : 'allow'
const mounts = ({ volumes = [], caches = [] }: ExecutionSpec): boolean => volumes.length + caches.length > 0

/** What a spec can say and this engine, or the runtime it chose, cannot do. */
const MISSING: readonly Missing[] = [
  {
    what: 'the modes `checkpointed` and `branched` with this runtime',
    asked: (spec, { capabilities }) => leavesSnapshot(spec) && !capabilities.seals,
  },
  {
    what: 'the mode `persistent` with this runtime',
    asked: (spec, { capabilities }) => spec.mode === 'persistent' && !capabilities.keep,
  },
  {
    what: 'a start from a `checkpoint` with this runtime',
    asked: (spec, { capabilities }) => spec.checkpoint !== undefined && !capabilities.seals,
  },
  {
    what: 'a `checkpoint` beside a `parent`',
    asked: (spec) => spec.checkpoint !== undefined && spec.mode === 'branched',
  },
  { what: 'a `parent` in this mode', asked: (spec) => spec.parent !== undefined && spec.mode !== 'branched' },
  {
    what: 'that `network` with this runtime',
    asked: (spec, { capabilities }) => !capabilities.network.includes(networkOf(spec)),
  },
  { what: '`secrets`', asked: (spec) => (spec.secrets?.length ?? 0) > 0 },
  {
    what: '`volumes` and `caches` with this runtime',
    asked: (spec, { capabilities, volumes }) => mounts(spec) && !(volumes && capabilities.volumes),
  },
  { what: '`resources.gpus`', asked: (spec) => spec.resources.gpus > 0 },
  { what: '`ttlMs` in this mode', asked: (spec) => spec.ttlMs !== undefined && spec.mode !== 'persistent' },
  { what: '`idleTtlMs` in this mode', asked: (spec) => spec.idleTtlMs !== undefined && spec.mode !== 'persistent' },
  { what: '`cacheTtlMs` in this mode', asked: (spec) => spec.cacheTtlMs !== undefined && spec.mode !== 'cached' },
  { what: '`cacheFailures` in this mode', asked: (spec) => spec.cacheFailures === true && spec.mode !== 'cached' },
]

/** Throws `unsupported`, naming the part of `spec` that this engine cannot do. */
export const assertSupported = (spec: ExecutionSpec, offer: Offer): void => {
  for (const { what, asked } of MISSING)
    if (asked(spec, offer)) throw new BrambleError('unsupported', { detail: `this node does not offer ${what}` })
}
