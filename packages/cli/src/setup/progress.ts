import type { WriteStream } from 'node:tty'
import { paint } from '../terminal.ts'
import type { Plan, StepObserver, StepOutcome, StepProgress } from './step.ts'

const FRAMES = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏']
const frameMs = 80
const titleChars = 16

export interface ProgressOptions {
  readonly stream: NodeJS.WriteStream | WriteStream
  /** Redraw one line in place; otherwise every event is a line of its own. */
  readonly live: boolean
  readonly color: boolean
}

/** Shows steps as they run: on a terminal one line with a spinner and a percentage, elsewhere plain lines. */
export const stepProgress = (options: ProgressOptions): StepObserver & Disposable => {
  const write = (text: string): void => void options.stream.write(text)
  let timer: NodeJS.Timeout | undefined
  let line = ''
  let frame = 0

  const draw = (): void => {
    const width = ('columns' in options.stream && options.stream.columns) || 80
    frame = (frame + 1) % FRAMES.length
    write(`\r\x1b[K${paint('cyan', FRAMES[frame] ?? '', options.color)} ${line.slice(0, width - 3)}`)
  }
  const stop = (): void => {
    if (timer === undefined) return
    clearInterval(timer)
    timer = undefined
    write('\r\x1b[K')
  }

  return {
    started(title: string, plan: Plan) {
      line = `${title.padEnd(titleChars)} ${plan.does}`
      if (!options.live) return write(`${title}: ${plan.does}\n`)
      timer = setInterval(draw, frameMs).unref()
      draw()
    },
    progress(title: string, progress: StepProgress) {
      const percent = progress.fraction === undefined ? '' : `${Math.floor(progress.fraction * 100)}% `.padStart(5)
      line = `${title.padEnd(titleChars)} ${percent}${progress.note}`
    },
    ended(outcome: StepOutcome) {
      stop()
      write(`${describe(outcome, options.color)}\n`)
    },
    [Symbol.dispose]: stop,
  }
}

const describe = (outcome: StepOutcome, color: boolean): string => {
  const title = outcome.title.padEnd(titleChars)
  switch (outcome.state) {
    case 'in place':
      return `${paint('green', '✓', color)} ${title} ${paint('dim', 'in place', color)}`
    case 'done':
      return `${paint('green', '✓', color)} ${title} ${paint('dim', `done in ${(outcome.tookMs / 1000).toFixed(1)} s`, color)}`
    case 'would run':
      return `${paint('yellow', '·', color)} ${title} would: ${outcome.does}`
    case 'blocked':
      return [`${paint('red', '✗', color)} ${title} cannot: ${outcome.does}`, ...indent(outcome.reasons)].join('\n')
    case 'failed':
      return [`${paint('red', '✗', color)} ${title} failed`, ...indent(outcome.reasons)].join('\n')
    default:
      return outcome.state satisfies never
  }
}

const indent = (lines: readonly string[] = []): string[] => lines.map((line) => `    ${line}`)
