import { imageInvalid } from './image-errors.ts'

/** pax(5) and tar(5): blocks of 512 bytes. */
export const BLOCK_BYTES = 512

export type TarType = 'file' | 'hardlink' | 'symlink' | 'directory' | 'fifo' | 'device'

/** The header block of one entry, before extended headers are applied. Names are bytes, as latin1 text. */
export interface TarHeader {
  /** The type flag as it stands in the archive. */
  readonly flag: string
  readonly name: string
  readonly linkName: string
  readonly sizeBytes: number
  readonly uid: number
  readonly gid: number
  readonly mode: number
  readonly modifiedSeconds: number
}

const text = (block: Buffer, start: number, length: number): string => {
  const field = block.subarray(start, start + length)
  const end = field.indexOf(0)
  return field.toString('latin1', 0, end === -1 ? field.length : end)
}

/** Octal digits between spaces and NULs, or base-256 with the top bit set; negative and unsafe numbers are refused. */
const number = (block: Buffer, start: number, length: number, what: string): number => {
  const field = block.subarray(start, start + length)
  const first = field[0] ?? 0
  if (first & 0x80) {
    let value = first & 0x7f
    for (const byte of field.subarray(1)) value = value * 256 + byte
    if (first & 0x40 || !Number.isSafeInteger(value)) throw imageInvalid(`an entry has a ${what} out of range`)
    return value
  }
  const digits = text(block, start, length).replaceAll(' ', '')
  if (digits === '') return 0
  if (!/^[0-7]+$/.test(digits)) throw imageInvalid(`an entry has a ${what} that is not a number`)
  return Number.parseInt(digits, 8)
}

/** 0 for what is no such number: nothing that is unpacked here depends on it. */
const octal = (block: Buffer, start: number, length: number): number => {
  const digits = text(block, start, length).trim()
  return /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : 0
}

const hasChecksum = (block: Buffer): boolean => {
  const written = Number.parseInt(text(block, 148, 8).trim(), 8)
  let unsigned = 0
  let signed = 0
  for (let i = 0; i < BLOCK_BYTES; i++) {
    const byte = i >= 148 && i < 156 ? 0x20 : (block[i] ?? 0)
    unsigned += byte
    signed += byte > 127 ? byte - 256 : byte
  }
  return written === unsigned || written === signed
}

export const isZeroBlock = (block: Buffer): boolean => block.every((byte) => byte === 0)

export const parseTarHeader = (block: Buffer): TarHeader => {
  if (!hasChecksum(block))
    throw imageInvalid('it is not a tar archive, or a damaged one: a header has a wrong checksum')
  const magic = block.toString('latin1', 257, 265)
  let prefix = ''
  if (magic === 'ustar\x0000') {
    prefix = text(block, 345, block.toString('latin1', 508, 512) === 'tar\0' ? 131 : 155)
  } else if (magic === 'ustar  \0') {
    // GNU: these are times. A reader that finds no number there may take them for a prefix, so they must be numbers.
    number(block, 345, 12, 'time')
    number(block, 357, 12, 'time')
  }
  const name = text(block, 0, 100)
  const flag = String.fromCharCode(block[156] ?? 0)
  return {
    flag: flag === '\0' ? '0' : flag,
    name: prefix === '' ? name : `${prefix}/${name}`,
    linkName: text(block, 157, 100),
    sizeBytes: number(block, 124, 12, 'size'),
    uid: number(block, 108, 8, 'uid'),
    gid: number(block, 116, 8, 'gid'),
    mode: octal(block, 100, 8),
    modifiedSeconds: octal(block, 136, 12),
  }
}

/** The records of a pax extended header: `<length> <key>=<value>\n`. Values are bytes, as latin1 text. */
export const parsePaxRecords = (data: Buffer): Map<string, string> => {
  const records = new Map<string, string>()
  let at = 0
  while (at < data.length) {
    const space = data.indexOf(0x20, at)
    const digits = space === -1 ? '' : data.toString('latin1', at, Math.min(space, at + 12))
    const end = /^[1-9][0-9]*$/.test(digits) ? at + Number(digits) : -1
    const equals = data.indexOf(0x3d, space)
    if (end <= space || end > data.length || data[end - 1] !== 0x0a || equals === -1 || equals >= end) {
      throw imageInvalid('an extended header of the archive is malformed')
    }
    records.set(data.toString('latin1', space + 1, equals), data.toString('latin1', equals + 1, end - 1))
    at = end
  }
  return records
}
