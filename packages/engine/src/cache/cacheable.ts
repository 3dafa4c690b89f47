import { BrambleError, type ExecutionSpec } from '@bramble/protocol'

const DIGEST = /^[0-9a-f]{64}$/

interface Reason {
  readonly asked: (spec: ExecutionSpec) => boolean
  readonly why: string
}

/** What makes a result depend on more than its input hash says. */
const REASONS: readonly Reason[] = [
  {
    asked: ({ secrets = [] }) => secrets.length > 0,
    why: 'a command with `secrets` is not cached: their values are no part of what it is known by',
  },
  {
    asked: ({ volumes = [] }) => volumes.some(({ readOnly }) => !readOnly),
    why: 'a command that writes to `volumes` is not cached: what it does there would not be done again. Mount them `readOnly`',
  },
  {
    asked: ({ network, volumes = [], cacheTtlMs }) =>
      (network !== 'none' || volumes.length > 0) && cacheTtlMs === undefined,
    why: 'what a command finds in its `network` or `volumes` changes: say with `cacheTtlMs` how long its result holds',
  },
  {
    asked: ({ checkpoint, parent }) => parent !== undefined || (checkpoint !== undefined && !DIGEST.test(checkpoint)),
    why: 'a cached command starts from a `checkpoint` named by its whole hash, or from none: other names move',
  },
]

/** Throws `invalid_request` for a spec whose result must not answer another request. */
export const assertCacheable = (spec: ExecutionSpec): void => {
  for (const { asked, why } of REASONS) if (asked(spec)) throw new BrambleError('invalid_request', { detail: why })
}
