import { readdir, readFile, readlink, writeFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'

const POLL_MS = 10
const TERM_MS = 3000

/** A process by its pid and the time it started, since the kernel gives a pid again. */
export interface ProcessIdentity {
  readonly pid: number
  /** Field 22 of proc_pid_stat(5), in clock ticks since boot. */
  readonly startTicks: string
}

/** The fields of `/proc/PID/stat` from the third on; the second may hold anything, and ends at the last parenthesis. */
export const statFields = async (pid: number): Promise<string[] | undefined> => {
  const text = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => undefined)
  return text?.slice(text.lastIndexOf(')') + 2).split(' ')
}

export const identify = async (pid: number): Promise<ProcessIdentity | undefined> => {
  const fields = await statFields(pid)
  const startTicks = fields?.[19]
  // A zombie is gone: it only waits for its parent to hear of it.
  return startTicks === undefined || fields?.[0] === 'Z' ? undefined : { pid, startTicks }
}

export const writePidFile = (path: string, identity: ProcessIdentity): Promise<void> =>
  writeFile(path, `${JSON.stringify(identity)}\n`, { mode: 0o600 })

/** The process that a pid file names, if it still runs. A file that cannot be read names none. */
export const readPidFile = async (path: string): Promise<ProcessIdentity | undefined> => {
  const text = await readFile(path, 'utf8').catch(() => '')
  const [, pid, startTicks] = /^\{"pid":(\d+),"startTicks":"(\d+)"\}/.exec(text) ?? []
  if (pid === undefined) return undefined
  const now = await identify(Number(pid))
  return now?.startTicks === startTicks ? now : undefined
}

/** Ends a process that is not a child of this one, gently first, and returns when it is gone. */
export const endProcess = async (identity: ProcessIdentity): Promise<void> => {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    kill(identity.pid, signal)
    for (let waitedMs = 0; waitedMs < TERM_MS; waitedMs += POLL_MS) {
      if ((await identify(identity.pid))?.startTicks !== identity.startTicks) return
      await delay(POLL_MS)
    }
  }
  throw new Error(`process ${identity.pid} does not end`)
}

/** Sends a signal; one that is gone is no error. */
export const kill = (pid: number, signal: NodeJS.Signals): void => {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/**
 * Kills every process that works in `directory` or below it: what an agent that was itself killed left behind. One that
 * went to another directory is not found; without isolation there is nothing that would tell whose it is.
 */
export const killThoseIn = async (directory: string): Promise<void> => {
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue
    const workdir = await readlink(`/proc/${name}/cwd`).catch(() => '')
    if (`${workdir}/`.startsWith(`${directory}/`)) kill(Number(name), 'SIGKILL')
  }
}
