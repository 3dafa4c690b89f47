import { readdir, readFile } from 'node:fs/promises'

/**
 * Kills, on this host, what started the process with that command line (arguments with a NUL after each). It looks until
 * there is one: a program that has just begun has no command line yet.
 */
export const killParentOf = async (commandLine: string): Promise<void> => {
  for (;;) {
    for (const pid of await readdir('/proc')) {
      if (!/^\d+$/.test(pid)) continue
      const found = await readFile(`/proc/${pid}/cmdline`, 'latin1').catch(() => '')
      if (found !== commandLine) continue
      const status = await readFile(`/proc/${pid}/status`, 'latin1')
      const parent = Number(/^PPid:\s+(\d+)$/m.exec(status)?.[1])
      if (!(parent > 1)) throw new Error(`${pid} has no parent to kill`)
      process.kill(parent, 'SIGKILL')
      return
    }
  }
}
