import { readFile, writeFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { BrambleError } from '@bramble/protocol'
import type { Cgroups } from './cgroups.ts'

/** Processes that wait for a disk cannot be stopped before it answers. */
const FREEZE_TIMEOUT_MS = 2000
const FIRST_WAIT_MS = 1

/** Stops the processes of a cgroup where they are. */
export interface Freezer {
  /** Resolves when all of them stand still. Rejects with `sandbox_failed`, having let them go on, when some do not. */
  freeze(cgroupPath: string): Promise<void>
  thaw(cgroupPath: string): Promise<void>
  isFrozen(cgroupPath: string): Promise<boolean>
}

const freezerWith = (
  at: (cgroupPath: string, file: string) => string,
  words: { file: string; freeze: string; thaw: string; state: string; frozen: RegExp },
): Freezer => {
  const set = (cgroupPath: string, word: string): Promise<void> => writeFile(at(cgroupPath, words.file), word)
  const isFrozen = async (cgroupPath: string): Promise<boolean> =>
    words.frozen.test(await readFile(at(cgroupPath, words.state), 'utf8'))
  const fail = (cause: unknown): never => {
    throw new BrambleError('sandbox_failed', { detail: `the kernel's freezer: ${String(cause)}`, cause })
  }
  const thaw = (cgroupPath: string): Promise<void> => set(cgroupPath, words.thaw).catch(fail)
  return {
    // Nearly always the first look finds it frozen.
    freeze: async (cgroupPath) => {
      try {
        await set(cgroupPath, words.freeze)
        let waitedMs = 0
        for (let waitMs = FIRST_WAIT_MS; !(await isFrozen(cgroupPath)); waitMs *= 2) {
          if (waitedMs >= FREEZE_TIMEOUT_MS) throw new Error(`not frozen after ${waitedMs} ms`)
          await delay(waitMs)
          waitedMs += waitMs
        }
      } catch (error) {
        await thaw(cgroupPath).catch(() => {})
        fail(error)
      }
    },
    thaw,
    isFrozen: (cgroupPath) => isFrozen(cgroupPath).catch(fail),
  }
}

/** The freezer of version 2 (`cgroup.freeze`) or 1 (`freezer.state`); undefined where there is none. */
export const findFreezer = (cgroups: Cgroups): Freezer | undefined => {
  const hierarchy = cgroups.controller('freezer')
  if (hierarchy === undefined) return undefined
  const at = (cgroupPath: string, file: string): string => `${hierarchy}${cgroupPath}/${file}`
  return cgroups.version === 2
    ? freezerWith(at, { file: 'cgroup.freeze', freeze: '1', thaw: '0', state: 'cgroup.events', frozen: /^frozen 1$/m })
    : freezerWith(at, {
        file: 'freezer.state',
        freeze: 'FROZEN',
        thaw: 'THAWED',
        state: 'freezer.state',
        frozen: /^FROZEN$/m,
      })
}
