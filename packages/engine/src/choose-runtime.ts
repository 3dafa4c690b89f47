import { BrambleError, type Isolation, type RuntimeChoice } from '@bramble/protocol'
import type { Runtime } from '@bramble/runtime'

export interface Wanted {
  readonly runtime: RuntimeChoice
  readonly isolation?: Isolation | undefined
}

/**
 * The first runtime that offers what is asked for; throws `unsupported` where none does. A composite (`auto`) chooses
 * for itself when it makes the sandbox, and refuses there.
 */
export const chooseRuntime = (
  runtimes: readonly Runtime[],
  unavailable: readonly { name: string; reason: string }[],
  { runtime: choice, isolation }: Wanted,
): Runtime => {
  const found = runtimes.find(
    ({ name, capabilities }) =>
      name === 'auto' ||
      ((choice === 'auto' || name === choice) && (isolation === undefined || capabilities.isolation === isolation)),
  )
  if (found) return found
  const asked = [choice !== 'auto' && `the runtime \`${choice}\``, isolation && `the isolation \`${isolation}\``]
  const reason = unavailable.find(({ name }) => name === choice)?.reason
  throw new BrambleError('unsupported', {
    detail: `this node does not offer ${asked.filter(Boolean).join(' with ')}${reason ? ` (${reason})` : ''}`,
  })
}
