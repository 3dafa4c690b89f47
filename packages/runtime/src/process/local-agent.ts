import { posix } from 'node:path'
import type { Agent, AgentLog, ExecRequest } from '../agent/agent.ts'
import { SANDBOX_AGENT_PATH } from '../agent/agent-binary.ts'

export interface LocalOptions {
  readonly directory: string
  /** The agent's program on this host. */
  readonly agentPath: string
  /** Where the agent takes events of programs, if it does: `bramble-emit` finds it in the environment. */
  readonly events?: string
}

/**
 * The agent of a sandbox without a root of its own. Where a command of a real sandbox would begin in `/` or have its home
 * in `/root`, it has the sandbox's directory; the agent's program is where it is on this host.
 */
export const localAgent = (agent: Agent, options: LocalOptions): Agent => ({
  ...agent,
  exec: (request) => agent.exec(localRequest(request, options)),
  // What it tells changes, so it is asked each time.
  log: Object.create(agent.log, {
    start: {
      value: ((request, name) => agent.log.start(localRequest(request, options), name)) satisfies AgentLog['start'],
    },
  }),
})

const localRequest = (request: ExecRequest, { directory, agentPath, events }: LocalOptions): ExecRequest => {
  const [command = '', ...words] = request.argv
  const { workdir = '/', env, user, ...rest } = request
  const root = process.getuid?.() === 0
  return {
    ...rest,
    argv: [command === SANDBOX_AGENT_PATH ? agentPath : command, ...words],
    workdir: workdir === '/' ? directory : posix.resolve(directory, workdir),
    env: {
      ...env,
      ...(env?.HOME === '/root' && { HOME: directory }),
      ...(events !== undefined && { BRAMBLE_EVENTS: events }),
    },
    // Whoever is not root can run commands as nobody else, and images name root.
    ...(user !== undefined && (root || (user !== 'root' && user !== '0')) && { user }),
  }
}
