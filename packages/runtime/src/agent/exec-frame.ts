import { BrambleError } from '@bramble/protocol'
import type { ExecRequest } from './agent.ts'
import { allocFrame, FRAME, HEADER_BYTES, PAYLOAD_BYTES_MAX } from './frames.ts'

const TAG = {
  argument: 1,
  environment: 2,
  workdir: 3,
  user: 4,
  stdin: 5,
  credit: 6,
  linger: 7,
  fileSizeLimit: 8,
  openFilesLimit: 9,
  coreLimit: 10,
  terminal: 11,
  name: 12,
} as const

const FIELD_HEADER_BYTES = 5

const invalid = (detail: string): BrambleError => new BrambleError('invalid_request', { detail })

/**
 * The `EXEC` frame of a request, in one buffer. Throws `invalid_request` for what the agent would refuse: no argument, a
 * NUL byte, an environment name with `=`, or more than fits one frame.
 */
export const encodeExec = (channel: number, request: ExecRequest, windowBytes: number, name?: string): Buffer => {
  const { argv, env = {}, workdir, user, rlimits = {} } = request
  if (argv.length === 0) throw invalid('the command has no arguments')
  const texts: [tag: number, text: string | Uint8Array][] = []
  for (const argument of argv) texts.push([TAG.argument, argument])
  for (const name of Object.keys(env)) {
    if (name === '' || name.includes('=')) throw invalid(`\`${name}\` is no name for the environment`)
    texts.push([TAG.environment, `${name}=${env[name]}`])
  }
  if (workdir !== undefined) texts.push([TAG.workdir, workdir])
  if (user !== undefined) texts.push([TAG.user, user])
  if (name !== undefined) texts.push([TAG.name, name])
  const limits = [
    [TAG.fileSizeLimit, rlimits.fileSizeBytes],
    [TAG.openFilesLimit, rlimits.openFiles],
    [TAG.coreLimit, rlimits.coreBytes],
  ] as const

  let bytes = FIELD_HEADER_BYTES + 8
  for (const [, text] of texts) bytes += FIELD_HEADER_BYTES + Buffer.byteLength(text)
  if (request.pty) bytes += FIELD_HEADER_BYTES + 4
  if (request.stdin === 'pipe') bytes += FIELD_HEADER_BYTES + 1
  if (request.linger) bytes += FIELD_HEADER_BYTES + 1
  for (const [, limit] of limits) if (limit !== undefined) bytes += FIELD_HEADER_BYTES + 8
  if (bytes > PAYLOAD_BYTES_MAX)
    throw invalid(`arguments and environment take ${bytes} bytes of the ${PAYLOAD_BYTES_MAX} there are`)

  const frame = allocFrame(FRAME.exec, channel, bytes)
  let at = HEADER_BYTES
  const begin = (tag: number, length: number): void => {
    frame[at] = tag
    frame.writeUInt32LE(length, at + 1)
    at += FIELD_HEADER_BYTES
  }
  for (const [tag, text] of texts) {
    if (typeof text === 'string' ? text.includes('\0') : text.includes(0))
      throw invalid('a NUL byte cannot be passed to a command')
    if (typeof text !== 'string') frame.set(text, at + FIELD_HEADER_BYTES)
    const length = typeof text === 'string' ? frame.write(text, at + FIELD_HEADER_BYTES) : text.length
    begin(tag, length)
    at += length
  }
  if (request.stdin === 'pipe') {
    begin(TAG.stdin, 1)
    frame[at++] = 1
  }
  begin(TAG.credit, 8)
  at = frame.writeUInt32LE(windowBytes, at)
  at = frame.writeUInt32LE(windowBytes, at)
  if (request.linger) {
    begin(TAG.linger, 1)
    frame[at++] = 1
  }
  if (request.pty) {
    begin(TAG.terminal, 4)
    at = frame.writeUInt16LE(request.pty.cols, at)
    at = frame.writeUInt16LE(request.pty.rows, at)
  }
  for (const [tag, limit] of limits) {
    if (limit === undefined) continue
    begin(tag, 8)
    at = frame.writeBigUInt64LE(BigInt(limit), at)
  }
  return frame
}
