import { BrambleError, LIMITS } from '@bramble/protocol'
import type { Agent } from '../agent/agent.ts'
import { SANDBOX_AGENT_PATH } from '../agent/agent-binary.ts'
import { appletFields } from './applet-fields.ts'
import type { FileCall, FileChange, PathInput } from './sandbox-files.ts'

export interface WatchOptions extends FileCall {
  readonly recursive?: boolean | undefined
  /** Where the agent's program is, seen from the sandbox. */
  readonly agentPath?: string | undefined
  /** Default `maxWatchedDirectories` of the protocol's limits. */
  readonly maxDirectories?: number | undefined
}

const NOT_FOUND = 2
const NO_WATCH = 5
const SLASH = 47
const maxDetailChars = 200
/** A path of the sandbox, and the two letters before it. */
const maxFieldBytes = LIMITS.maxPathBytes.value + 3
const EVENTS: Readonly<Record<string, 'create' | 'modify' | 'delete' | 'move'>> = {
  c: 'create',
  m: 'modify',
  d: 'delete',
  v: 'move',
}

/**
 * `SandboxFiles.watch`, by the applet `watch` (`packages/agent/FRAMES.md`). It ends when the watched directory is deleted or
 * renamed away, after the `delete` that says so. A file is watched by its name: one that another takes the place of is
 * watched on. Symbolic links below the path are not followed. When the memory of the sandbox is saved the watch is begun anew,
 * after an `overflow`.
 */
export async function* watchFiles(
  agent: Agent,
  path: PathInput,
  options: WatchOptions = {},
): AsyncGenerator<FileChange, void, undefined> {
  const { recursive = false, user, signal, agentPath = SANDBOX_AGENT_PATH } = options
  const { maxDirectories = LIMITS.maxWatchedDirectories.value } = options
  const bytes = typeof path === 'string' ? Buffer.from(path) : path
  if (bytes.length === 0) throw new BrambleError('invalid_request', { detail: 'the path is empty' })
  if (bytes.includes(0)) throw new BrambleError('invalid_request', { detail: 'the path has a NUL byte' })
  const argv = [agentPath, 'watch', ...(recursive ? ['--recursive'] : []), '--max', String(maxDirectories), bytes]
  for (let parks = agent.parks; ; parks = agent.parks) {
    try {
      yield* changesOf(appletFields(agent, { argv, user, transient: true, signal, maxFieldBytes, failed: errorOf }))
      return
    } catch (error) {
      if (signal?.aborted || agent.parks === parks) throw error
      yield { event: 'overflow', detail: 'the memory of the sandbox was saved meanwhile' }
    }
  }
}

async function* changesOf(fields: AsyncIterable<Buffer>): AsyncGenerator<FileChange, void, undefined> {
  let from: { path: Buffer; isDirectory: boolean } | undefined
  for await (const field of fields) {
    if (from) {
      yield { event: 'move', ...from, to: checked(field) }
      from = undefined
      continue
    }
    const [letter = '', kind = ''] = field.subarray(0, 2).toString('latin1')
    const event = EVENTS[letter]
    if (letter === 'r' && field.length === 1) yield { event: 'ready' }
    else if (letter === 'o') yield { event: 'overflow', detail: field.toString('utf8', 1).slice(0, maxDetailChars) }
    else if (event === undefined || (kind !== 'd' && kind !== 'f')) throw notAnApplets()
    else {
      const change = { path: checked(field.subarray(2)), isDirectory: kind === 'd' }
      if (event === 'move') from = change
      else yield { event, ...change }
    }
  }
  if (from) throw notAnApplets()
}

const checked = (path: Buffer): Buffer => {
  if (path[0] !== SLASH) throw notAnApplets()
  return path
}

const notAnApplets = (): BrambleError =>
  new BrambleError('agent_protocol', { detail: 'what a watch said is not what a watch says' })

const errorOf = (code: number, message: string): BrambleError => {
  if (code === NOT_FOUND) return new BrambleError('file_not_found', { detail: message })
  if (code === NO_WATCH) return new BrambleError('queue_full', { detail: `no more can be watched: ${message}` })
  return new BrambleError('file_refused', { detail: message || `the watch ended with ${code}` })
}
