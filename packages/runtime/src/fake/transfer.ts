import { posix } from 'node:path'
import { fileSource } from './devices.ts'
import { type FileNode, SystemError } from './file-system.ts'
import type { FakeProcess, Program } from './process.ts'

/** Some of the agent's applets (`packages/agent/FRAMES.md`): `put PATH MODE`, `get PATH MAXBYTES`, `emit NAME [DATA]`. */
export const applet: Program = async (process) => {
  const [, verb, path = '', argument = ''] = process.argv
  if (verb === 'put') return put(process, process.path(path), Number.parseInt(argument, 8))
  if (verb === 'get') return get(process, process.path(path), Number(argument))
  if (verb === 'emit') return emit(process, path, process.argv[3])
  await process.print('stderr', 'usage: agent put PATH MODE | agent get PATH MAXBYTES | agent emit NAME [DATA]\n')
  return 64
}

const emit = async (process: FakeProcess, name: string, text = 'null'): Promise<number> => {
  let data: unknown = text
  try {
    data = JSON.parse(text)
  } catch {
    // A string, then.
  }
  await process.machine.emit(Buffer.from(JSON.stringify({ name, data })))
  return 0
}

const put = async (process: FakeProcess, path: string, mode: number): Promise<number> => {
  const { machine, user } = process
  machine.files.makeDirectories(posix.dirname(path), user)
  const temporary = `${path}.${process.pid}.tmp`
  const file = machine.files.openForWrite(temporary, user, true)
  try {
    for (let chunk = await process.read(); chunk; chunk = await process.read()) machine.files.append(file, chunk)
    file.mode = mode
    machine.files.rename(temporary, path, user)
  } catch (error) {
    machine.files.remove(temporary, user, false)
    throw error
  }
  return 0
}

const get = async (process: FakeProcess, path: string, maxBytes: number): Promise<number> => {
  let file: FileNode
  try {
    file = process.machine.files.read(path, process.user)
  } catch (error) {
    if (!(error instanceof SystemError)) throw error
    const code = { ENOENT: 2, ENOTDIR: 2, EISDIR: 3 }[error.errno as string] ?? 5
    await process.print('stderr', `agent: ${path}: ${error.message}\n`)
    return code
  }
  if (file.device) return 3
  if (file.sizeBytes > maxBytes) {
    await process.print('stderr', `${file.sizeBytes}\n`)
    return 4
  }
  const source = fileSource(file)
  for (let chunk = await source.read(process.signal); chunk; chunk = await source.read(process.signal))
    await process.write('stdout', chunk)
  return 0
}
