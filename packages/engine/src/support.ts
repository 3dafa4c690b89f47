import { BrambleError, type ExecutionSpec } from '@bramble/protocol'

interface Missing {
  readonly what: string
  readonly asked: (spec: ExecutionSpec) => boolean
}

/** What a spec can say and this engine cannot do yet: one line each, removed by the work that brings it. */
const MISSING: readonly Missing[] = [
  { what: 'the mode `cached`', asked: (spec) => spec.mode === 'cached' },
  { what: 'the mode `checkpointed`', asked: (spec) => spec.mode === 'checkpointed' },
  { what: 'the mode `branched`', asked: (spec) => spec.mode === 'branched' },
  { what: 'the mode `persistent`', asked: (spec) => spec.mode === 'persistent' },
  { what: 'a start from a `checkpoint`', asked: (spec) => spec.checkpoint !== undefined },
  { what: 'a `parent`', asked: (spec) => spec.parent !== undefined },
  { what: 'a network other than `none`', asked: (spec) => spec.network !== 'none' },
  { what: '`secrets`', asked: (spec) => (spec.secrets?.length ?? 0) > 0 },
  { what: '`volumes`', asked: (spec) => (spec.volumes?.length ?? 0) > 0 },
  { what: '`resources.gpus`', asked: (spec) => spec.resources.gpus > 0 },
  { what: '`ttlMs`', asked: (spec) => spec.ttlMs !== undefined },
  { what: '`idleTtlMs`', asked: (spec) => spec.idleTtlMs !== undefined },
  { what: '`cacheTtlMs`', asked: (spec) => spec.cacheTtlMs !== undefined },
  {
    what: '`files` from blobs',
    asked: (spec) =>
      spec.files !== undefined && Object.values(spec.files).some((file) => typeof file === 'object' && 'blob' in file),
  },
]

/** Throws `unsupported`, naming the part of `spec` that this engine cannot do. */
export const assertSupported = (spec: ExecutionSpec): void => {
  for (const { what, asked } of MISSING)
    if (asked(spec)) throw new BrambleError('unsupported', { detail: `this node does not offer ${what}` })
}
