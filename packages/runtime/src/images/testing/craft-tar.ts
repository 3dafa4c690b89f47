/** One entry of an archive made byte by byte, so that it may be as wrong as a hostile one. */
export interface CraftedEntry {
  readonly name: string
  /** The type flag: `0` file, `1` hard link, `2` symbolic link, `3` device, `5` directory, `6` FIFO. */
  readonly flag?: string
  readonly link?: string
  readonly body?: string | Buffer
  readonly mode?: number
  readonly uid?: number
  /** What the header says, where that is not the body's length. */
  readonly claimedBytes?: number
  /** The raw 12 bytes of the size. */
  readonly rawSize?: Buffer
  /** The ustar prefix field. */
  readonly prefix?: string
  /** Records of an extended header before the entry. */
  readonly pax?: Readonly<Record<string, string>>
}

const octal = (value: number, bytes: number) => `${value.toString(8).padStart(bytes - 1, '0')}\0`

const pad = (data: Buffer) => Buffer.concat([data, Buffer.alloc((512 - (data.length % 512)) % 512)])

const headerOf = (entry: CraftedEntry, bodyBytes: number): Buffer => {
  const block = Buffer.alloc(512)
  block.write(entry.name, 0, 100, 'latin1')
  block.write(octal(entry.mode ?? 0o644, 8), 100)
  block.write(octal(entry.uid ?? 0, 8), 108)
  block.write(octal(entry.uid ?? 0, 8), 116)
  if (entry.rawSize) entry.rawSize.copy(block, 124)
  else block.write(octal(entry.claimedBytes ?? bodyBytes, 12), 124)
  block.write(octal(1_577_836_800, 12), 136)
  block.write('        ', 148)
  block.write(entry.flag ?? '0', 156, 1)
  block.write(entry.link ?? '', 157, 100, 'latin1')
  block.write('ustar\x0000', 257, 'latin1')
  block.write(octal(1, 8), 329)
  block.write(octal(3, 8), 337)
  block.write(entry.prefix ?? '', 345, 155, 'latin1')
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  return block
}

export const craftTar = (entries: readonly CraftedEntry[], options: { endMarker?: boolean } = {}): Buffer => {
  const parts: Buffer[] = []
  for (const entry of entries) {
    if (entry.pax) {
      const records = Object.entries(entry.pax).map(([key, value]) => paxRecord(key, value))
      const body = Buffer.from(records.join(''), 'latin1')
      parts.push(headerOf({ name: 'pax', flag: 'x' }, body.length), pad(body))
    }
    const body = Buffer.from(entry.body ?? '')
    parts.push(headerOf(entry, body.length), pad(body))
  }
  if (options.endMarker ?? true) parts.push(Buffer.alloc(1024))
  return Buffer.concat(parts)
}

const paxRecord = (key: string, value: string): string => {
  const rest = ` ${key}=${value}\n`
  let length = rest.length
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length
  return `${length}${rest}`
}
