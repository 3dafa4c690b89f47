import type { Bramble, Job, JobEvent, ResultContent } from '@bramble/sdk'
import { formatMs } from '../format.ts'
import type { Output } from '../run/output.ts'
import { isLive, safeLine } from '../terminal.ts'
import { shortId } from './short-id.ts'

const DRAW_MS = 100

/** What is going on with a job, in a line, as its events tell it. */
export interface JobProgress {
  take(event: JobEvent): void
  text(): string
}

export const jobProgress = (): JobProgress => {
  let status = 'submitted'
  let waiting: string | undefined
  const executions = new Map<string, string>()
  const take = (event: JobEvent): void => {
    if (event.type === 'status') status = event.status
    else if (event.type === 'job') {
      status = event.job.status
      waiting = event.job.waiting?.message
    } else if (event.type === 'waiting') waiting = event.waiting.message
    else if (event.type === 'execution') {
      executions.set(event.execution, event.status)
      waiting = undefined
    }
  }
  return {
    take,
    text: () => {
      const all = [...executions.values()]
      const count = (wanted: string): number => all.filter((each) => each === wanted).length
      const kinds = [...new Set(all)].map((kind) => `${count(kind)} ${kind}`)
      return [
        status,
        ...(kinds.length > 0 ? [kinds.join(', ')] : []),
        ...(waiting === undefined ? [] : [waiting]),
      ].join(' · ')
    },
  }
}

/** Redraws the progress on stderr, where that is a terminal, until it is disposed of. */
const liveLine = (id: string, progress: JobProgress): { clear(): void } & Disposable => {
  const { stderr } = process
  if (!isLive(stderr)) return { clear: () => undefined, [Symbol.dispose]: () => undefined }
  const began = performance.now()
  let drawn = false
  const clear = (): void => {
    if (drawn) stderr.write('\r\x1b[K')
    drawn = false
  }
  const timer = setInterval(() => {
    const line = safeLine(`job ${shortId(id)}  ${progress.text()}  ${formatMs(performance.now() - began)}`)
    stderr.write(`\r\x1b[K${line.slice(0, (stderr.columns || 80) - 1)}`)
    drawn = true
  }, DRAW_MS).unref()
  return {
    clear,
    [Symbol.dispose]() {
      clearInterval(timer)
      clear()
    },
  }
}

/** Waits so long are worth a line where nothing is drawn. */
const WAIT_MS = 2000

/** Says on stderr, once for each reason, why a job waits, where no live line does. */
const waitNotes = (quiet: boolean): { take(event: JobEvent): void } & Disposable => {
  const { stderr } = process
  const said = new Set<string>()
  let timer: NodeJS.Timeout | undefined
  const take = (event: JobEvent): void => {
    const waiting = event.type === 'job' ? event.job.waiting : event.type === 'waiting' ? event.waiting : undefined
    if (quiet || isLive(stderr) || event.type === 'stdout' || event.type === 'stderr') return
    clearTimeout(timer)
    if (waiting === undefined || said.has(waiting.message)) return
    timer = setTimeout(() => {
      said.add(waiting.message)
      stderr.write(`bramble: it waits: ${safeLine(waiting.message)}\n`)
    }, WAIT_MS).unref()
  }
  return { take, [Symbol.dispose]: () => clearTimeout(timer) }
}

/**
 * Output as it was shown while the job ran: of one execution, the first that said something. What the verdict's result has
 * beyond it comes after it; another result comes whole.
 */
interface Shown {
  execution: string | undefined
  readonly pieces: { readonly stdout: Buffer[]; readonly stderr: Buffer[] }
}

const showPiece = async (
  event: Extract<JobEvent, { type: 'stdout' | 'stderr' }>,
  shown: Shown,
  output: Output,
): Promise<void> => {
  shown.execution ??= event.execution
  if (shown.execution !== event.execution) return
  const bytes = Buffer.from(event.data, event.encoding === 'base64' ? 'base64' : 'utf8')
  shown.pieces[event.type].push(bytes)
  await output.write(event.type, bytes)
}

const showRest = async (bytes: Uint8Array, before: readonly Buffer[], to: 'stdout' | 'stderr', output: Output) => {
  const said = Buffer.concat(before)
  const goesOn = Buffer.compare(said, bytes.subarray(0, said.length)) === 0
  await output.write(to, goesOn ? bytes.subarray(said.length) : bytes)
}

export interface FollowOptions {
  /** Output goes to the streams of this process; live where the job has it before its verdict. */
  readonly output: Output
  readonly quiet: boolean
  readonly signal: AbortSignal
}

/** Waits for the end of a job with its output and a line of progress, and resolves with it. */
export const followJob = async (bramble: Bramble, id: string, options: FollowOptions): Promise<Job> => {
  const { output, quiet, signal } = options
  const progress = jobProgress()
  const shown: Shown = { execution: undefined, pieces: { stdout: [], stderr: [] } }
  let job: Job | undefined
  {
    using line = liveLine(id, progress)
    using notes = waitNotes(quiet)
    try {
      for await (const event of bramble.jobs.events(id, { signal })) {
        progress.take(event)
        notes.take(event)
        if (event.type === 'job') job = event.job
        else if (!quiet && (event.type === 'stdout' || event.type === 'stderr')) {
          line.clear()
          await showPiece(event, shown, output)
        }
      }
    } catch (error) {
      if (signal.aborted) throw error
      // `wait` has other ways, and says what is wrong where they fail too.
    }
    if (job?.finishedAt === undefined) job = await bramble.jobs.wait(id, { signal })
  }
  if (!quiet && job.result !== undefined)
    for (const to of ['stdout', 'stderr'] as const) {
      const content: ResultContent = job.result[to]
      await showRest(await bramble.jobs.read(content, { signal }), shown.pieces[to], to, output)
    }
  return job
}
