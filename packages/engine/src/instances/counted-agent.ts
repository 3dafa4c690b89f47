import type { Agent, AgentProcess, ProcessEvent } from '@bramble/runtime'
import type { Box } from './live-instance.ts'

/** The agent of the sandbox as it runs now; commands that are begun by it count among those without a name. */
export const countedAgent = (box: Box): Agent => {
  const { agent } = box.sandbox
  return {
    exec: (request) => counted(box, agent.exec(request)),
    connect: (request) => agent.connect(request),
    log: agent.log,
    ping: (options) => agent.ping(options),
    closed: agent.closed,
    close: () => agent.close(),
    [Symbol.asyncDispose]: () => agent.close(),
  }
}

const counted = (box: Box, process: AgentProcess): AgentProcess => {
  box.running.add(process)
  async function* events(): AsyncGenerator<ProcessEvent> {
    try {
      yield* process
    } finally {
      box.running.delete(process)
    }
  }
  return {
    [Symbol.asyncIterator]: events,
    write: (data) => process.write(data),
    end: () => process.end(),
    kill: (signal) => process.kill(signal),
    resize: (size) => process.resize(size),
    discard: (stream) => process.discard(stream),
  }
}
