import { closeSync, openSync, readSync } from 'node:fs'

const PT_INTERP = 3

/**
 * Whether a file is an ELF program that runs without a dynamic loader: 64-bit, little-endian, and no `PT_INTERP` among
 * its program headers (elf(5)). False for anything that cannot be read.
 */
export const isStaticElf = (path: string): boolean => {
  let descriptor: number | undefined
  try {
    descriptor = openSync(path, 'r')
    const bytes = Buffer.alloc(8192)
    const size = readSync(descriptor, bytes, 0, bytes.length, 0)
    if (size < 64 || bytes.readUInt32BE(0) !== 0x7f454c46 || bytes[4] !== 2 || bytes[5] !== 1) return false
    const offset = Number(bytes.readBigUInt64LE(32))
    const entrySize = bytes.readUInt16LE(54)
    const entries = bytes.readUInt16LE(56)
    for (let entry = 0; entry < entries; entry++) {
      const at = offset + entry * entrySize
      if (at + 4 > size || bytes.readUInt32LE(at) === PT_INTERP) return false
    }
    return true
  } catch {
    return false
  } finally {
    if (descriptor !== undefined) closeSync(descriptor)
  }
}
