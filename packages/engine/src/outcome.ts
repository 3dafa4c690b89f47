import { isUtf8 } from 'node:buffer'
import { hash } from 'node:crypto'
import { constants } from 'node:os'
import type { ExecutionSpec, ExecutionStatus, OutputFile, Sha256, Usage } from '@bramble/protocol'
import { BrambleError, inputHash, resultHash } from '@bramble/protocol'
import type { ProcessExit, SandboxStats } from '@bramble/runtime'
import { type KeptOutput, wholeCharactersBytes } from './kept-output.ts'

export const sha256: Sha256 = (data) => hash('sha256', data)

/** The input hash. Throws `invalid_request` for text that has none: lone surrogates cannot be written in UTF-8. */
export const inputHashOf = (spec: ExecutionSpec, imageDigest: string): string => {
  try {
    return inputHash(spec, imageDigest, sha256)
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
    throw new BrambleError('invalid_request', { detail: `the spec has no hash: ${error.message}`, cause: error })
  }
}

const SIGNAL_NAMES = new Map(Object.entries(constants.signals).map(([name, number]) => [number, name]))
const SIGKILL = 9
/** The shell's exit code where its last command was killed. */
const KILLED_CODE = 128 + SIGKILL

/** How an execution ended. */
export interface Ending {
  readonly status: ExecutionStatus
  readonly exitCode: number | null
  readonly signal?: string
  readonly message?: string
}

const STEPS = {
  fork: 'a process could not be started',
  user: 'the user is not known in the image',
  workdir: 'the working directory cannot be entered',
  pipes: 'the pipes of the command could not be made',
  exec: 'the command cannot be executed',
  connect: 'the connection cannot be made',
} as const

/** What the command's own end means. `oomKills`: processes of its sandbox that the kernel killed for want of memory. */
export const endingOfExit = (exit: ProcessExit, oomKills: number): Ending => {
  switch (exit.kind) {
    case 'exited':
      if (exit.code === KILLED_CODE && oomKills > 0) return { ...OUT_OF_MEMORY, exitCode: exit.code }
      return { status: exit.code === 0 ? 'succeeded' : 'failed', exitCode: exit.code }
    case 'signalled': {
      const signal = SIGNAL_NAMES.get(exit.signal) ?? `SIG${exit.signal}`
      const ended = { exitCode: 128 + exit.signal, signal }
      return exit.signal === SIGKILL && oomKills > 0 ? { ...OUT_OF_MEMORY, ...ended } : { status: 'failed', ...ended }
    }
    case 'failed': {
      const notFound = exit.step === 'exec' && exit.errno === constants.errno.ENOENT
      return {
        status: 'failed',
        exitCode: notFound ? 127 : 126,
        message: `${notFound ? 'the command was not found' : STEPS[exit.step]}: ${exit.message}`,
      }
    }
    default:
      return exit satisfies never
  }
}

/** The command, or the whole sandbox, was killed for want of memory. */
export const OUT_OF_MEMORY: Ending = {
  status: 'oom',
  exitCode: null,
  message: 'the sandbox ran out of memory (`resources.memoryMb`)',
}

export interface EncodedOutput {
  readonly stdout: string
  readonly stderr: string
  readonly encoding: 'utf8' | 'base64'
  readonly truncated: boolean
  readonly stdoutSha256: string
  readonly stderrSha256: string
}

const EMPTY_SHA256 = sha256('')
const digestOf = (bytes: Buffer): string => (bytes.length === 0 ? EMPTY_SHA256 : sha256(bytes))

const wholeBytes = (kept: KeptOutput): Buffer => {
  const bytes = kept.bytes()
  return kept.truncated ? bytes.subarray(0, wholeCharactersBytes(bytes)) : bytes
}

type OutputText = Omit<EncodedOutput, 'stdoutSha256' | 'stderrSha256'>

const textOf = (out: Buffer, err: Buffer, truncated: boolean): OutputText => {
  const encoding = isUtf8(out) && isUtf8(err) ? 'utf8' : 'base64'
  return { stdout: out.toString(encoding), stderr: err.toString(encoding), encoding, truncated }
}

/** Both streams as the result writes them: text where both are UTF-8, else base64. */
export const encodeText = (stdout: KeptOutput, stderr: KeptOutput): OutputText =>
  textOf(wholeBytes(stdout), wholeBytes(stderr), stdout.truncated || stderr.truncated)

/** The same with their digests. */
export const encodeOutput = (stdout: KeptOutput, stderr: KeptOutput): EncodedOutput => {
  const out = wholeBytes(stdout)
  const err = wholeBytes(stderr)
  return {
    ...textOf(out, err, stdout.truncated || stderr.truncated),
    stdoutSha256: digestOf(out),
    stderrSha256: digestOf(err),
  }
}

export const resultHashOf = (ending: Ending, output: EncodedOutput, outputs: Record<string, OutputFile>): string => {
  const digests: Record<string, string> = {}
  for (const [path, file] of Object.entries(outputs)) digests[path] = 'error' in file ? file.error : file.sha256
  return resultHash(
    {
      status: ending.status,
      exitCode: ending.exitCode,
      signal: ending.signal,
      stdoutSha256: output.stdoutSha256,
      stderrSha256: output.stderrSha256,
      outputs: digests,
    },
    sha256,
  )
}

export const NO_USAGE: Usage = { cpuMs: 0, peakMemoryBytes: 0, diskBytes: 0, egressBytes: 0 }

/** What the command used: the kernel's account since the sandbox was ready. */
export const usageOf = (stats: SandboxStats, baseline: SandboxStats): Usage => ({
  // To the microsecond: more digits are what is left of a subtraction of floats.
  cpuMs: Math.round(Math.max(0, stats.cpuMs - baseline.cpuMs) * 1000) / 1000,
  peakMemoryBytes: stats.peakMemoryBytes,
  diskBytes: stats.diskBytes,
  egressBytes: Math.max(0, stats.egressBytes - baseline.egressBytes),
})
