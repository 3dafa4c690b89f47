import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { BrambleError } from '@bramble/protocol'

/** The programs an image store runs, as paths or names to be found on PATH. */
export interface ImageTools {
  readonly skopeo: string
  readonly umoci: string
  readonly tar: string
  readonly xz: string
  readonly sync: string
  readonly mmdebstrap: string
}

export const DEFAULT_TOOLS: ImageTools = {
  skopeo: 'skopeo',
  umoci: 'umoci',
  tar: 'tar',
  xz: 'xz',
  sync: 'sync',
  mmdebstrap: 'mmdebstrap',
}

/** Debian's package of each program that is not part of every Debian. */
const PACKAGES: Record<string, string> = {
  skopeo: 'skopeo',
  umoci: 'umoci',
  xz: 'xz-utils',
  mmdebstrap: 'mmdebstrap',
}

const KEPT_MESSAGE_BYTES = 4096
const MAX_TOOL_OUTPUT_BYTES = 8 * 1024 * 1024

export interface ToolOptions {
  readonly signal?: AbortSignal | undefined
  /** Added to the node's own environment. */
  readonly env?: Readonly<Record<string, string>>
  /** Each line of standard error, as it comes. */
  readonly onLine?: (line: string) => void
}

export interface ToolResult {
  readonly exitCode: number
  readonly stdout: Buffer
  /** The end of standard error. */
  readonly message: string
}

/**
 * Runs a program to its end and gives what it said. The program and its children are one process group, which is
 * killed on abort; the promise settles when the program is gone, on abort with the signal's reason.
 */
export const runTool = async (
  tool: string,
  args: readonly string[],
  options: ToolOptions = {},
): Promise<ToolResult> => {
  const running = startTool(tool, args, options)
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of running.stdout) {
    bytes += chunk.length
    if (bytes <= MAX_TOOL_OUTPUT_BYTES) chunks.push(chunk)
    else running.kill()
  }
  const { exitCode, message } = await running.ended
  return { exitCode, stdout: Buffer.concat(chunks), message }
}

export interface RunningTool {
  /** Undefined where it could not be started. */
  readonly pid: number | undefined
  /** Begin to read it in the same turn: what a program that has ended wrote is thrown away where nobody reads. */
  readonly stdout: Readable
  readonly stdin: NonNullable<ChildProcess['stdin']>
  /** Settles when the program is gone: rejects with the signal's reason, or `unsupported` where it is not installed. */
  readonly ended: Promise<{ exitCode: number; message: string }>
  kill(): void
}

/** Starts a program whose standard output is read, or standard input fed, while it runs. */
export const startTool = (tool: string, args: readonly string[], options: ToolOptions = {}): RunningTool => {
  options.signal?.throwIfAborted()
  const child = spawn(tool, args, {
    stdio: ['pipe', 'pipe', 'pipe'],
    detached: true,
    env: { ...process.env, LC_ALL: 'C', ...options.env },
  })
  // A program that does not read its input closes it early: not an error of ours.
  child.stdin.on('error', () => {})
  const kill = () => killGroup(child)
  options.signal?.addEventListener('abort', kill, { once: true })

  let message = ''
  createInterface({ input: child.stderr }).on('line', (line) => {
    message = `${message}\n${line}`.slice(-KEPT_MESSAGE_BYTES)
    options.onLine?.(line)
  })

  const ended = new Promise<{ exitCode: number; message: string }>((resolve, reject) => {
    child.once('error', (cause: NodeJS.ErrnoException) => {
      options.signal?.removeEventListener('abort', kill)
      reject(cause.code === 'ENOENT' ? missingTool(tool, cause) : cause)
    })
    child.once('close', (code) => {
      options.signal?.removeEventListener('abort', kill)
      if (options.signal?.aborted) reject(options.signal.reason)
      else resolve({ exitCode: code ?? 128, message: message.trim() })
    })
  })
  // Whoever awaits it sees the rejection; one that comes before that is not a crash.
  ended.catch(() => {})
  return { pid: child.pid, stdout: child.stdout, stdin: child.stdin, ended, kill }
}

const killGroup = (child: ChildProcess) => {
  if (child.pid === undefined) return
  try {
    process.kill(-child.pid, 'SIGKILL')
  } catch {
    // The group is gone already.
  }
}

const missingTool = (tool: string, cause: unknown) => {
  const name = tool.split('/').at(-1) ?? tool
  const from = PACKAGES[name] === undefined ? '' : ` (Debian package ${PACKAGES[name]})`
  return new BrambleError('unsupported', { detail: `the program ${tool} is not installed${from}`, cause })
}

/** The last line of what a tool said, without its log decoration: what a person needs of it. */
export const lastWords = (message: string): string => {
  const line = message.split('\n').at(-1)?.trim() ?? ''
  const logged = /level=\w+ msg="(.*)"$/.exec(line)?.[1]
  const words = (logged?.replaceAll('\\"', '"') ?? line) || 'it gave no reason'
  // skopeo puts this before whatever a registry or an engine answers.
  return words.replace(/^Error parsing image name "[^"]*": /, '')
}
