import { isUtf8 } from 'node:buffer'
import type { InstanceLease } from '@bramble/engine'
import type { FileEntry } from '@bramble/protocol'

/** What the sandbox says of a file. */
export type FileInfo = Awaited<ReturnType<InstanceLease['files']['stat']>>

/** Names as JSON carries them: text where all of them are UTF-8, else all of them in base64. */
export const namesAsText = <const Name extends string>(
  names: Readonly<Partial<Record<Name, Buffer | undefined>>>,
): Partial<Record<Name, string>> & { encoding?: 'base64' } => {
  const given = Object.entries(names) as [Name, Buffer | undefined][]
  const text = given.every(([, bytes]) => bytes === undefined || isUtf8(bytes))
  const written = given.flatMap(([name, bytes]) => (bytes ? [[name, bytes.toString(text ? 'utf8' : 'base64')]] : []))
  return { ...Object.fromEntries(written), ...(!text && { encoding: 'base64' as const }) } as Partial<
    Record<Name, string>
  >
}

export const fileEntry = (info: FileInfo): FileEntry => {
  const { type, sizeBytes, mode, uid, gid } = info
  const { path = '', ...rest } = namesAsText({ path: info.path, target: info.target })
  const modifiedAt = new Date(info.modifiedAtMs).toISOString()
  return { path, ...rest, type, sizeBytes, mode, uid, gid, modifiedAt }
}

/** Changes with every change that the sandbox's clock can tell (RFC 9110, section 8.8.3). */
export const entityTag = ({ modifiedAtMs, sizeBytes }: FileInfo): string =>
  `"${Math.round(modifiedAtMs * 1000).toString(36)}-${sizeBytes.toString(36)}"`
