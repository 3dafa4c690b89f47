import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { Socket } from 'node:net'
import { DatabaseSync, StatementSync } from 'node:sqlite'

/**
 * Loaded before a node (`--import`), so that it can be killed at any step of what it does: each change of the disk, each
 * statement of a database, and each write to a socket (a client, the launcher, an agent, the object store) is one. On SIGUSR2 it
 * reads the file that `CRASH_STEPS_FILE` names: a number is the step at which it kills itself, counted from now; `count` asks
 * how many there were. The file is empty when it has been read, or has the count.
 */
const control = process.env.CRASH_STEPS_FILE ?? ''
let steps = 0
let dieAt = Number.POSITIVE_INFINITY

const step = (): void => {
  if (++steps >= dieAt) process.kill(process.pid, 'SIGKILL')
}

type Any = Record<string, (...args: never[]) => unknown>
const wrap = (target: object, ...names: string[]): void => {
  const functions = target as Any
  for (const name of names) {
    const original = functions[name]
    if (original === undefined) throw new Error(`there is no ${name} to count`)
    functions[name] = function counted(this: unknown, ...args: never[]) {
      step()
      return original.apply(this, args)
    }
  }
}

const handle = await fs.promises.open('/dev/null')
wrap(Object.getPrototypeOf(handle), 'datasync', 'sync', 'write', 'writeFile', 'truncate')
await handle.close()
const { readFileSync, writeFileSync } = fs
wrap(fs.promises, 'rename', 'mkdir', 'rm', 'rmdir', 'unlink', 'writeFile', 'open', 'link')
wrap(fs, 'fsync', 'fdatasync', 'renameSync', 'rmSync', 'writeFileSync', 'mkdirSync')
syncBuiltinESMExports()
wrap(StatementSync.prototype, 'run', 'all')
wrap(DatabaseSync.prototype, 'exec')
wrap(Socket.prototype, '_write', '_writev')

process.on('SIGUSR2', () => {
  const asked = readFileSync(control, 'utf8')
  const counted = steps
  steps = 0
  dieAt = asked === 'count' ? Number.POSITIVE_INFINITY : Number(asked)
  writeFileSync(control, asked === 'count' ? `${counted}\n` : '')
})
