import { spawn } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { expect } from 'vitest'
import type { Sandbox } from '../runtime.ts'
import { outputOf } from './run-command.ts'
import { configOf, type Subject } from './subject.ts'

/** Others who must not notice what happens in one sandbox: a neighbour, and a process of the host. */
export interface Others {
  /** Fails the test when one of them noticed. */
  check(): Promise<void>
  close(): Promise<void>
}

export const startOthers = async (subject: Subject): Promise<Others> => {
  const neighbour: Sandbox = await subject.runtime.create(configOf(subject))
  const witness = spawn('sleep', ['100000'], { stdio: 'ignore' })
  const name = hostname()
  await outputOf(neighbour, 'echo mine > /tmp/witness')
  return {
    check: async () => {
      expect(await outputOf(neighbour, 'cat /tmp/witness; hostname')).toMatch(/^mine\n/)
      expect((await neighbour.stats()).oomKills).toBe(0)
      expect(witness.exitCode ?? witness.signalCode).toBeNull()
      expect(hostname()).toBe(name)
      expect(await hostRuns()).toBe(0)
    },
    close: async () => {
      await neighbour.destroy()
      witness.kill('SIGKILL')
    },
  }
}

/** The host can still start a process. */
const hostRuns = (): Promise<number | null> =>
  new Promise((resolve, reject) => {
    spawn('true', { stdio: 'ignore' }).once('exit', resolve).once('error', reject)
  })

/** Pids on this host whose command line has `marker`. Of a remote engine's machine nothing is seen. */
export const hostProcesses = async (marker: string): Promise<number[]> => {
  const found: number[] = []
  for (const name of await readdir('/proc').catch(() => [])) {
    if (!/^\d+$/.test(name)) continue
    const commandLine = await readFile(`/proc/${name}/cmdline`, 'latin1').catch(() => '')
    if (commandLine.includes(marker) && Number(name) !== process.pid) found.push(Number(name))
  }
  return found
}
