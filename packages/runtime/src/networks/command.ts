import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { BrambleError } from '@bramble/protocol'

const TIMEOUT_MS = 30_000
const MAX_OUTPUT_BYTES = 64 * 1024 * 1024

/** Runs a program of the host with `input`, and gives its output. Rejects with what it complained of. */
export type Command = (name: string, args: readonly string[], input?: string) => Promise<string>

/** Administrators' programs are not on everyone's PATH. */
const searched = (): string[] => (process.env.PATH ?? '').split(':').concat('/usr/sbin', '/sbin', '/usr/bin', '/bin')

export const findProgram = (name: string): string | undefined =>
  searched()
    .map((directory) => join(directory, name))
    .find((path) => existsSync(path))

export const runCommand: Command = async (name, args, input = '') => {
  const program = findProgram(name)
  if (program === undefined) throw new BrambleError('unsupported', { detail: `there is no \`${name}\` on this host` })
  const env = { LC_ALL: 'C', PATH: searched().join(':') }
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'], env, timeout: TIMEOUT_MS })
  const { promise, resolve, reject } = Promise.withResolvers<number | null>()
  let output = ''
  let complaint = ''
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString()
    if (output.length > MAX_OUTPUT_BYTES) child.kill('SIGKILL')
  })
  child.stderr.on('data', (chunk: Buffer) => {
    complaint = (complaint + chunk.toString()).slice(0, 2048)
  })
  child.stdin.on('error', () => {})
  child.on('error', reject)
  child.on('close', resolve)
  child.stdin.end(input)
  const code = await promise
  if (code === 0) return output
  const detail = `${name} ${args.slice(0, 3).join(' ')}: ${complaint.trim().split('\n')[0] || `ended with ${code}`}`
  throw new BrambleError('sandbox_failed', { detail })
}
