import { type ChildProcess, spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import type { Readable, Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { BrambleError } from '@bramble/protocol'

const MAX_COMPLAINT_CHARS = 4096

/** The program `launcher/layers`, at work. */
export interface LayersProgram {
  readonly stdin: Writable
  readonly stdout: Readable
  /** Resolves when it is gone, with what it said on standard error. Never rejects. */
  readonly ended: Promise<string>
  /** It is not waited for any more, whatever it does. */
  kill(): void
}

/** Throws `unsupported` while `bramble setup` has not built it. */
const layersProgramPath = (): string => {
  const path = fileURLToPath(new URL('../../launcher/build/layers', import.meta.url))
  try {
    accessSync(path, constants.X_OK)
  } catch (cause) {
    throw new BrambleError('unsupported', { detail: `${path} is not built: run \`./bramble setup\``, cause })
  }
  return path
}

export const startLayersProgram = (args: readonly string[]): LayersProgram => {
  // A process group of its own: a Ctrl-C at the node's terminal is not for it.
  const child: ChildProcess = spawn(layersProgramPath(), args, { stdio: 'pipe', env: {}, detached: true })
  const { stdin, stdout, stderr } = child as ChildProcess & { stdin: Writable; stdout: Readable; stderr: Readable }
  const ended = Promise.withResolvers<string>()
  let complaint = ''
  // It may end before it took everything; why, it says elsewhere.
  stdin.on('error', () => {})
  stderr.on('data', (chunk: Buffer) => {
    complaint = (complaint + chunk.toString('latin1')).slice(-MAX_COMPLAINT_CHARS)
  })
  child.once('error', (error) => ended.resolve(error.message))
  child.once('close', () => ended.resolve(complaint.trim()))
  return {
    stdin,
    stdout,
    ended: ended.promise,
    kill: () => {
      child.kill('SIGKILL')
      stdin.destroy()
      stdout.destroy()
    },
  }
}
