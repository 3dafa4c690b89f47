import { BrambleError } from '@bramble/protocol'
import { readStart } from './read-start.ts'

const COMMAND_BYTES_MAX = 200
const STATUS_BYTES_MAX = 16 * 1024

/** What CRIU says, and what that means to whoever runs the process. */
const MEANINGS: readonly (readonly [RegExp, string])[] = [
  [/fsnotify|inotify|fanotify/i, 'watches files (inotify), which an overlay cannot be asked about'],
  [/io_uring/, 'uses io_uring'],
  [/ghost file .*limit/, 'holds a deleted file of more than 64 MiB open'],
  [
    /half of stream unix|external socket|without peer|unreachable peer/i,
    'holds a Unix socket whose other end is not in the sandbox',
  ],
  [/userfaultfd/, 'uses userfaultfd'],
  [/perf_event|bpf/i, 'uses perf events or eBPF'],
  [/traced|ptrace/i, 'is being traced'],
  [/unsupported (?:socket|proto|family)|Unsupported/i, 'holds something that CRIU does not know'],
]

/** `checkpoint_refused` with the process that holds it up and why, as people understand it, before CRIU's own words. */
export const explainRefusal = async (error: unknown): Promise<unknown> => {
  if (!(error instanceof BrambleError) || error.code !== 'checkpoint_refused') return error
  const meaning = MEANINGS.find(([pattern]) => pattern.test(error.detail))?.[1]
  const pid = /\(pid: (\d+)\) failed/.exec(error.detail)?.[1]
  if (meaning === undefined) return error
  const detail = `${await processOf(pid)} ${meaning}. CRIU: ${error.detail}`
  return new BrambleError('checkpoint_refused', { detail, cause: error })
}

const processOf = async (pid: string | undefined): Promise<string> => {
  if (pid === undefined) return 'a process'
  const own = /^NSpid:.*\t(\d+)$/m.exec(await readStart(`/proc/${pid}/status`, STATUS_BYTES_MAX))?.[1]
  const command = (await readStart(`/proc/${pid}/cmdline`, COMMAND_BYTES_MAX)).replaceAll('\0', ' ').trim()
  return own === undefined ? 'a process' : `process ${own} (${command})`
}
