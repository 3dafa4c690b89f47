import { BrambleError, LIMITS } from '@bramble/protocol'
import { absolutePath, pathBelow, toFileInfo } from './file-record.ts'
import { type AppletDeps, startApplet } from './run-applet.ts'
import type { FileCall, FileInfo, PathInput } from './sandbox-files.ts'

/** Of a listing in memory: names are long in deep trees. What is past it is `truncated`. */
const maxListBytes = 16 * 1024 * 1024

/** `SandboxFiles.list`. */
export const listFiles = async (
  deps: AppletDeps,
  path: PathInput,
  options: { recursive?: boolean; max?: number } & FileCall = {},
): Promise<{ items: FileInfo[]; truncated: boolean }> => {
  const { recursive = false, max = LIMITS.maxListedFiles.value, user, signal } = options
  const applet = startApplet(deps, { argv: ['list', path, String(max), recursive ? 'all' : 'one'], user, signal })
  const directory = absolutePath(path)
  const items: FileInfo[] = []
  let fields: Buffer[] = []
  let rest: Buffer[] = []
  let bytes = 0
  let truncated = false
  try {
    for (let piece = await applet.next(); piece && !truncated; piece = await applet.next()) {
      bytes += piece.length
      let at = 0
      for (let end = piece.indexOf(0); end >= 0 && !truncated; end = piece.indexOf(0, at)) {
        const field = Buffer.concat([...rest, piece.subarray(at, end)])
        rest = []
        at = end + 1
        fields.push(field)
        const [stat, name, target] = fields
        if (stat === undefined || name === undefined || target === undefined) continue
        fields = []
        truncated = stat.length === 0 || items.length === max
        if (!truncated) items.push(toFileInfo(stat, pathBelow(directory, name), target))
      }
      if (at < piece.length) rest.push(piece.subarray(at))
      truncated ||= bytes > maxListBytes
    }
  } finally {
    applet.close()
  }
  if (!truncated && (fields.length > 0 || rest.length > 0))
    throw new BrambleError('agent_protocol', { detail: 'a listing ends in the middle of a record' })
  items.sort((left, right) => left.path.compare(right.path))
  return { items, truncated }
}
