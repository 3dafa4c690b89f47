import { randomBytes } from 'node:crypto'
import type { Runtime, Sandbox, SandboxConfig } from '../runtime.ts'
import type { BytePath, LayerEntry, SealSource, SealStore } from '../seals/seals.ts'
import { configOf, type Fixture, type Subject, skip } from './subject.ts'

const MIB = 1024 * 1024

export const newSealName = (): string => `test_${randomBytes(8).toString('hex')}`

/** The subject, where its driver keeps states of sandboxes. */
export const sealing =
  (subject: Fixture): Fixture =>
  (context) => {
    const opened = subject(context)
    if (!opened.runtime.capabilities.seals) skip(context, 'the driver keeps no states of sandboxes')
    return opened
  }

export const storeOf = ({ seals }: Runtime): SealStore => {
  if (!seals) throw new Error('a runtime that says it has seals has none')
  return seals
}

/** The name of a new seal of `sandbox`. */
export const seal = async (sandbox: Sandbox, memory = false): Promise<string> => {
  const name = newSealName()
  if (!sandbox.seal) throw new Error('a sandbox of a runtime that says it has seals has none')
  const sealed = await sandbox.seal({ name, memory })
  if (sealed.name !== name || sealed.memory !== memory || !(sealed.frozenMs >= 0)) throw new Error('not what was asked')
  return name
}

export const configFrom = (
  subject: Pick<Subject, 'image'>,
  seal: string,
  options: { memory?: boolean; hostname?: string; layer?: string } = {},
): SandboxConfig => ({ ...configOf(subject, options), from: { seal, memory: options.memory === true } })

/** Bytes of a text, as a `BytePath` has them. */
export const bytes = (text: string): BytePath => Buffer.from(text).toString('latin1')

export const entriesOf = async (runtime: Runtime, name: string): Promise<Map<BytePath, LayerEntry>> => {
  const entries = new Map<BytePath, LayerEntry>()
  let last = ''
  for await (const entry of storeOf(runtime).entries(name)) {
    if (entry.path <= last) throw new Error(`${JSON.stringify(entry.path)} comes after ${JSON.stringify(last)}`)
    last = entry.path
    entries.set(entry.path, entry)
  }
  return entries
}

/** Whether the image's `path` is hidden: by itself, or by what it is in. */
export const hides = (entries: ReadonlyMap<BytePath, LayerEntry>, path: BytePath): boolean => {
  const entry = entries.get(path)
  if (entry) return entry.type === 'deleted'
  const parents = path.split('/').map((_, index, names) => entries.get(names.slice(0, index).join('/')))
  return parents.some((parent) => parent && (parent.type !== 'directory' || parent.opaque))
}

export const collectBytes = async (source: AsyncIterable<Uint8Array>): Promise<Buffer> => {
  const chunks: Uint8Array[] = []
  for await (const chunk of source) chunks.push(chunk)
  return Buffer.concat(chunks)
}

export const textAt = async (runtime: Runtime, name: string, path: string): Promise<string> =>
  (await collectBytes(storeOf(runtime).read(name, bytes(path)))).toString()

const OWNED = { uid: 0, gid: 0, modifiedNs: 1_234_567_890_123_456_789n }

export const directoryEntry = (path: string, changes: object = {}): LayerEntry => ({
  ...{ path: bytes(path), type: 'directory', mode: 0o755, opaque: false, ...OWNED },
  ...changes,
})
export const fileEntry = (path: string, sizeBytes: number, changes: object = {}): LayerEntry => ({
  ...{ path: bytes(path), type: 'file', mode: 0o644, sizeBytes, ...OWNED },
  ...changes,
})
export const symlinkEntry = (path: string, target: string, changes: object = {}): LayerEntry => ({
  ...{ path: bytes(path), type: 'symlink', mode: 0o777, target: bytes(target), ...OWNED },
  ...changes,
})
export const fifoEntry = (path: string, changes: object = {}): LayerEntry => ({
  ...{ path: bytes(path), type: 'fifo', mode: 0o640, ...OWNED },
  ...changes,
})
export const linkEntry = (path: string, target: string): LayerEntry => ({
  ...{ path: bytes(path), type: 'link', target: bytes(target) },
})

/** `contents`: of the files, by path; of one that is missing, as many `x` as it says it has. */
export const sourceOf = (
  entries: readonly LayerEntry[],
  contents: Readonly<Record<string, Uint8Array>> = {},
): SealSource => ({
  entries,
  read: async function* (path) {
    const entry = entries.find((one) => one.path === path)
    const said = entry?.type === 'file' ? entry.sizeBytes : 0
    yield contents[path] ?? Buffer.alloc(Math.min(said, 8 * MIB), 'x')
  },
  diskBytes: 64 * MIB,
})
