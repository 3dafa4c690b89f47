import { accessSync, constants } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { BrambleError } from '@bramble/protocol'

/** Where every sandbox has its agent. */
export const SANDBOX_AGENT_PATH = '/.bramble/agent'

/** The agent's program on this host. Throws `unsupported` while `bramble setup` has not built it. */
export const agentBinaryPath = (): string => {
  const path = fileURLToPath(new URL('../../../agent/build/agent', import.meta.url))
  try {
    accessSync(path, constants.X_OK)
  } catch (cause) {
    throw new BrambleError('unsupported', { detail: 'the agent is not built; `bramble setup` builds it', cause })
  }
  return path
}
