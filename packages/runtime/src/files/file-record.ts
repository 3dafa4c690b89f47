import { BrambleError } from '@bramble/protocol'
import type { FileInfo, PathInput } from './sandbox-files.ts'

/**
 * A record of the applets (`packages/agent/FRAMES.md`): three NUL-ended fields, which are what stat(2) says, the name, and
 * where a symbolic link leads. It comes from the sandbox, so everything in it is checked.
 */
const STAT = /^([fdlpsc]) ([0-7]{1,4}) (\d{1,10}) (\d{1,10}) (\d{1,16}) (-?\d{1,15})\.(\d{9})$/

const TYPES: Readonly<Record<string, FileInfo['type']>> = {
  f: 'file',
  d: 'directory',
  l: 'symlink',
  p: 'fifo',
  s: 'socket',
  c: 'device',
}
/** The times that a JavaScript `Date` can hold. */
const maxTimeMs = 8.64e15
const SLASH = Buffer.from('/')

const broken = (): BrambleError => new BrambleError('agent_protocol', { detail: 'a record of a file is broken' })

export const toFileInfo = (stat: Buffer, path: Buffer, target: Buffer): FileInfo => {
  const [, letter = '', mode = '', uid, gid, size, seconds, ns] = STAT.exec(stat.toString('latin1')) ?? []
  const type = TYPES[letter]
  const sizeBytes = Number(size)
  const modifiedAtMs = Number(seconds) * 1000 + Math.floor(Number(ns) / 1e6)
  if (type === undefined || !Number.isSafeInteger(sizeBytes) || Math.abs(modifiedAtMs) > maxTimeMs) throw broken()
  return {
    path,
    type,
    sizeBytes,
    mode: Number.parseInt(mode, 8),
    uid: Number(uid),
    gid: Number(gid),
    modifiedAtMs,
    ...(type === 'symlink' && { target }),
  }
}

/** The record that `bytes` begins with, and what follows it; undefined while it is not all there. */
export const takeRecord = (bytes: Buffer, path: PathInput): { info: FileInfo; rest: Buffer } | undefined => {
  const ends: number[] = []
  for (let at = 0; ends.length < 3; ) {
    const end = bytes.indexOf(0, at)
    if (end < 0) return undefined
    ends.push(end)
    at = end + 1
  }
  const [stat = 0, name = 0, target = 0] = ends
  const info = toFileInfo(bytes.subarray(0, stat), absolutePath(path), Buffer.from(bytes.subarray(name + 1, target)))
  return { info, rest: bytes.subarray(target + 1) }
}

/** All of `bytes` is one record. */
export const toRecord = (bytes: Buffer, path: PathInput): FileInfo => {
  const record = takeRecord(bytes, path)
  if (record === undefined || record.rest.length > 0) throw broken()
  return record.info
}

export const absolutePath = (path: PathInput): Buffer => {
  const bytes = Buffer.from(path)
  return bytes[0] === SLASH[0] ? bytes : Buffer.concat([SLASH, bytes])
}

/** `name` in the directory `path`. */
export const pathBelow = (path: Buffer, name: Buffer): Buffer =>
  Buffer.concat(path[path.length - 1] === SLASH[0] ? [path, name] : [path, SLASH, name])
