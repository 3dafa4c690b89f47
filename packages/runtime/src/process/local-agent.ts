import { posix } from 'node:path'
import type { Agent, AgentProcess, ExecRequest, ProcessEvent } from '../agent/agent.ts'
import { SANDBOX_AGENT_PATH } from '../agent/agent-binary.ts'

export interface LocalAgent extends Agent {
  /** Process groups of the commands that run now. */
  readonly groups: ReadonlySet<number>
}

/**
 * The agent of a sandbox without a root of its own. Where a command of a real sandbox would begin in `/` or have its home
 * in `/root`, it has the sandbox's directory; the agent's program is where it is on this host.
 */
export const localAgent = (agent: Agent, options: { directory: string; agentPath: string }): LocalAgent => {
  const groups = new Set<number>()
  const exec = (request: ExecRequest): AgentProcess => watch(agent.exec(localRequest(request, options)), groups)
  return { ...agent, exec, groups }
}

const localRequest = (request: ExecRequest, { directory, agentPath }: { directory: string; agentPath: string }) => {
  const [command = '', ...words] = request.argv
  const { workdir = '/', env, user, ...rest } = request
  const root = process.getuid?.() === 0
  return {
    ...rest,
    argv: [command === SANDBOX_AGENT_PATH ? agentPath : command, ...words],
    workdir: workdir === '/' ? directory : posix.resolve(directory, workdir),
    ...(env && { env: env.HOME === '/root' ? { ...env, HOME: directory } : env }),
    // Whoever is not root can run commands as nobody else, and images name root.
    ...(user !== undefined && (root || (user !== 'root' && user !== '0')) && { user }),
  }
}

const watch = (running: AgentProcess, groups: Set<number>): AgentProcess => ({
  write: (data) => running.write(data),
  end: () => running.end(),
  kill: (signal) => running.kill(signal),
  discard: (stream) => running.discard(stream),
  [Symbol.asyncIterator]: () => iterate(running, groups),
})

/** Every command has its own process group, named by its first process. */
async function* iterate(running: AgentProcess, groups: Set<number>): AsyncGenerator<ProcessEvent> {
  let group: number | undefined
  for await (const event of running) {
    if (event.type === 'started') {
      group = event.pid
      groups.add(group)
    }
    if (event.type === 'exit' && group !== undefined) groups.delete(group)
    yield event
  }
}
