import type { ExecRequest, ProcessEvent } from '../agent/agent.ts'
import { OutputQueue } from './output-queue.ts'
import { Pipe, type Sink } from './pipe.ts'
import type { FakeProcess } from './process.ts'
import type { World } from './world.ts'

export const STDIN_WINDOW_BYTES = 65_536

type Events = OutputQueue<ProcessEvent>

/** A command between its processes and whoever reads what it says. */
export interface CommandState {
  readonly request: ExecRequest
  readonly events: Events
  readonly stdin: Pipe
  readonly stdout: CommandSink
  readonly stderr: CommandSink
  /** Once it has begun. */
  process?: FakeProcess
}

/** Where the processes of a command write to; closed, it swallows. */
export class CommandSink implements Sink {
  readonly #events: Events
  readonly #type: 'stdout' | 'stderr'
  #open = true

  constructor(events: Events, type: 'stdout' | 'stderr') {
    this.#events = events
    this.#type = type
  }

  async write(data: Buffer, writer: AbortSignal): Promise<void> {
    if (this.#open && data.length > 0) await this.#events.pushOutput({ type: this.#type, data }, data.length, writer)
  }

  close(): void {
    this.#open = false
  }

  copy(world: World): CommandSink {
    return world.once(this, () => {
      const copy = new CommandSink(
        world.once(this.#events, () => this.#events.copy()),
        this.#type,
      )
      copy.#open = this.#open
      return copy
    })
  }
}

export const newCommand = (request: ExecRequest): CommandState => {
  const events: Events = new OutputQueue()
  return {
    request,
    events,
    stdin: new Pipe(STDIN_WINDOW_BYTES),
    stdout: new CommandSink(events, 'stdout'),
    stderr: new CommandSink(events, 'stderr'),
  }
}

export const copyCommand = (state: CommandState, world: World): CommandState => ({
  request: state.request,
  events: world.once(state.events, () => state.events.copy()),
  stdin: state.stdin.copy(world),
  stdout: state.stdout.copy(world),
  stderr: state.stderr.copy(world),
  ...(state.process && { process: world.process(state.process) }),
})
