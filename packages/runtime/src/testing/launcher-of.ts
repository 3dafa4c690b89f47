import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** The process that makes the sandboxes of a data directory, or undefined where none does. */
export const launcherOf = (dataDirectory: string): number | undefined =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .find((pid) => {
      try {
        const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
        return words[1] === '--directory' && words[2] === join(dataDirectory, 'oci')
      } catch {
        return false
      }
    })
