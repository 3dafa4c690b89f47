import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import type { Place } from './place.ts'

export interface ChildOptions {
  readonly place: Place
  readonly program: string
  readonly args: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** All that it says, over all its lives. */
  readonly log: string
  /** The part of a line by which it says that it is up. */
  readonly ready: string
  readonly onLine?: (line: string) => void
  /** It was up, and nobody ended it. */
  readonly onFallen: (last: string) => void
}

/** A process that is killed and started again, as what it was. */
export interface Child {
  readonly pid: number
  readonly up: boolean
  start(): Promise<void>
  /** Nothing happens where it is down. */
  end(signal: NodeJS.Signals): Promise<void>
  /** As a host that stands still: `SIGSTOP`, `SIGCONT`. */
  signal(signal: NodeJS.Signals): void
}

export const createChild = (options: ChildOptions): Child => {
  const { place, program, args, env, log, ready, onLine, onFallen } = options
  let child: ChildProcess | undefined
  let gone: Promise<unknown> = Promise.resolve()
  let ending = false
  return {
    get pid() {
      return child?.pid ?? 0
    },
    get up() {
      return child !== undefined
    },
    async start() {
      const [command, words] = place.wrap(program, args)
      const started = spawn(command, words, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } })
      const output = createWriteStream(log, { flags: 'a' })
      started.stderr?.pipe(output, { end: false })
      gone = once(started, 'exit')
      child = started
      ending = false
      let isUp = false
      const up = Promise.withResolvers<void>()
      let last = ''
      createInterface({ input: started.stdout as Readable }).on('line', (line) => {
        last = line
        output.write(`${line}\n`)
        if (line.includes(ready)) {
          isUp = true
          up.resolve()
        }
        onLine?.(line)
      })
      void gone.then(() => {
        if (child === started) child = undefined
        output.end()
        if (isUp && !ending) onFallen(`it ended by itself, see ${log}: ${last.slice(0, 500)}`)
        up.reject(new Error(`it ended before it was up, see ${log}: ${last.slice(0, 500)}`))
      })
      await up.promise
    },
    async end(signal) {
      ending = true
      child?.kill(signal)
      // Whoever stands still does not hear of any other signal.
      if (signal !== 'SIGKILL') child?.kill('SIGCONT')
      await gone
    },
    signal(signal) {
      child?.kill(signal)
    },
  }
}
