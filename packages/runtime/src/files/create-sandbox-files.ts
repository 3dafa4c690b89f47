import { randomBytes } from 'node:crypto'
import { BrambleError } from '@bramble/protocol'
import type { Agent } from '../agent/agent.ts'
import { SANDBOX_AGENT_PATH } from '../agent/agent-binary.ts'
import { takeRecord, toRecord } from './file-record.ts'
import { listFiles } from './list-files.ts'
import { type AppletCall, type AppletDeps, appletBody, collectApplet, startApplet } from './run-applet.ts'
import type { FileCall, FileInfo, Owner, PathInput, SandboxFiles } from './sandbox-files.ts'
import { watchFiles } from './watch.ts'

export interface SandboxFilesOptions {
  /** Whose permissions, where a call does not say. Default the agent's own user, root. */
  readonly user?: string | undefined
  /** Where the agent's program is, seen from the sandbox. */
  readonly agentPath?: string | undefined
}

/** Of a record: a path, where a link leads, and numbers. */
const maxRecordBytes = 16 * 1024
const MARK_BYTES = 16
const COUNTS = /^(\d{1,16}) (\d{1,16}) (\d{1,16})\n$/

/** The files of the sandbox that `agent` is in, by its applets; each call is one process there. */
export const sandboxFiles = (agent: Agent, options: SandboxFilesOptions = {}): SandboxFiles => {
  const { user, agentPath = SANDBOX_AGENT_PATH } = options
  const deps: AppletDeps = { agent, agentPath, user }

  const run = (argv: AppletCall['argv'], call: FileCall = {}): Promise<Buffer> =>
    collectApplet(startApplet(deps, { argv, user: call.user, signal: call.signal }), maxRecordBytes)

  return {
    stat: async (path, call = {}) =>
      toRecord(await run(['stat', path, call.followLinks ? 'follow' : 'link'], call), path),
    list: (path, call) => listFiles(deps, path, call),
    read: (path, call) => readFile(deps, path, call),
    write: (path, content, call) => writeFile(deps, path, content, call),
    makeDirectory: async (path, { parents = false, mode = 0o755, ...call } = {}) => {
      await run(['mkdir', path, octal(mode), parents ? 'parents' : 'one'], call)
    },
    move: async (from, to, call) => {
      await run(['move', from, to], call)
    },
    remove: async (path, { recursive = false, ...call } = {}) => {
      await run(['remove', path, recursive ? 'all' : 'one'], call)
    },
    setAttributes: async (path, attributes, call) => {
      await run(['set', path, ...changesOf(attributes)], call)
    },
    readTree: (path, call = {}) => ({
      [Symbol.asyncIterator]: () =>
        appletBody(startApplet(deps, { argv: ['tar', path], user: call.user, signal: call.signal }))[
          Symbol.asyncIterator
        ](),
    }),
    writeTree: (path, archive, call) => writeTree(deps, path, archive, call),
    watch: (path, { user: caller = user, ...call } = {}) =>
      watchFiles(agent, path, { ...call, user: caller, agentPath }),
  }
}

const octal = (mode: number): string => {
  if (!Number.isInteger(mode) || mode < 0 || mode > 0o7777)
    throw new BrambleError('invalid_request', { detail: `${mode} is no mode of a file` })
  return mode.toString(8)
}

const whole = (value: number, what: string): string => {
  if (!Number.isSafeInteger(value) || value < 0)
    throw new BrambleError('invalid_request', { detail: `${value} is no ${what}` })
  return String(value)
}

const ownerText = ({ uid, gid }: Owner): string => `${whole(uid, 'user id')}:${whole(gid, 'group id')}`

const changesOf = (attributes: { mode?: number; owner?: Owner; modifiedAtMs?: number }): string[] => {
  const { mode, owner, modifiedAtMs } = attributes
  if (modifiedAtMs !== undefined && !Number.isFinite(modifiedAtMs))
    throw new BrambleError('invalid_request', { detail: `${modifiedAtMs} is no time` })
  return [
    ...(owner ? [`owner=${ownerText(owner)}`] : []),
    ...(mode !== undefined ? [`mode=${octal(mode)}`] : []),
    ...(modifiedAtMs !== undefined ? [`modified=${BigInt(Math.round(modifiedAtMs)) * 1_000_000n}`] : []),
  ]
}

const readFile = async (
  deps: AppletDeps,
  path: PathInput,
  { offset = 0, length, user, signal }: { offset?: number; length?: number } & FileCall = {},
): Promise<{ info: FileInfo; body: AsyncIterable<Buffer> }> => {
  const range = [whole(offset, 'offset'), ...(length === undefined ? [] : [whole(length, 'length')])]
  const applet = startApplet(deps, { argv: ['read', path, ...range], user, signal })
  let head: Buffer = Buffer.alloc(0)
  for (;;) {
    const piece = await applet.next()
    head = piece ? Buffer.concat([head, piece]) : head
    const record = takeRecord(head, path)
    if (record) return { info: record.info, body: appletBody(applet, record.rest.length > 0 ? record.rest : undefined) }
    if (piece && head.length <= maxRecordBytes) continue
    const error = new BrambleError('agent_protocol', { detail: 'a file came without its record' })
    applet.fail(error)
    throw error
  }
}

/**
 * The content is complete when the mark has come after it, which nobody can know beforehand: that standard input ends says
 * nothing, for it also ends with the agent, or with a host that was killed.
 */
const writeFile = async (
  deps: AppletDeps,
  path: PathInput,
  content: Uint8Array | AsyncIterable<Uint8Array>,
  { mode, owner, user, signal }: { mode?: number; owner?: Owner } & FileCall = {},
): Promise<FileInfo> => {
  const mark = randomBytes(MARK_BYTES).toString('hex')
  const wishes = [mode === undefined ? '-' : octal(mode), owner ? ownerText(owner) : '-']
  const applet = startApplet(deps, { argv: ['write', path, mark, ...wishes], user, signal, stdin: 'pipe' })
  applet.feed(content, Buffer.from(mark))
  return toRecord(await collectApplet(applet, maxRecordBytes), path)
}

const writeTree = async (
  deps: AppletDeps,
  path: PathInput,
  archive: AsyncIterable<Uint8Array>,
  { user, signal }: FileCall = {},
): Promise<{ files: number; bytes: number; skipped: number }> => {
  const applet = startApplet(deps, { argv: ['untar', path], user, signal, stdin: 'pipe' })
  applet.feed(archive)
  const said = await collectApplet(applet, maxRecordBytes)
  const [, files, bytes, skipped] = COUNTS.exec(said.toString('latin1')) ?? []
  if (skipped === undefined) throw new BrambleError('agent_protocol', { detail: 'a tree was written without counts' })
  return { files: Number(files), bytes: Number(bytes), skipped: Number(skipped) }
}
