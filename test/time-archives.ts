import { createHash } from 'node:crypto'
import { zstdDecompressSync } from 'node:zlib'
import { canonicalJson, type Json } from '@bramble/protocol'

/** A member of an exported snapshot (`docs/snapshot-format.md`). */
export interface Member {
  readonly name: string
  readonly bytes: Buffer
}

const BLOCK = 512
const MANIFEST = 'manifest.json'

export const sha = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')

/** What `export` gave. */
export const readArchive = (body: Buffer): Member[] => {
  const tar = zstdDecompressSync(body)
  const members: Member[] = []
  for (let at = 0; tar[at] !== 0; ) {
    const text = (from: number, bytes: number): string => tar.toString('latin1', at + from, at + from + bytes)
    const size = Number.parseInt(text(124, 12), 8)
    const name = text(0, 100).replace(/\0.*$/s, '')
    members.push({ name, bytes: tar.subarray(at + BLOCK, at + BLOCK + size) })
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK
  }
  return members
}

/** `type`: of tar(5): '0' a file, '2' a symlink, '3' a device. */
const header = (name: string, size: number, type = '0', target = ''): Buffer => {
  const block = Buffer.alloc(BLOCK)
  block.write(name, 0)
  block.write('0000644\0' + '0000000\0' + '0000000\0', 100)
  block.write(`${size.toString(8).padStart(11, '0')}\0`, 124)
  block.write(`00000000000\0        ${type}${target}`, 136)
  block.write('ustar\0' + '00', 257)
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  return block
}

/** A whole archive, as it may be sent: without compression. */
export const writeArchive = (members: readonly (Member & { type?: string; target?: string })[]): Buffer =>
  Buffer.concat([
    ...members.flatMap(({ name, bytes, type, target }) => [
      header(name, bytes.length, type, target),
      bytes,
      Buffer.alloc((BLOCK - (bytes.length % BLOCK)) % BLOCK),
    ]),
    Buffer.alloc(2 * BLOCK),
  ])

export type Entry = Record<string, unknown> & { readonly path: string }
type Manifest = Record<string, Json> & { filesystem: { sizeBytes: number } }

const json = (value: unknown): Buffer => Buffer.from(canonicalJson(value as Json))
const whole = (bytes: Buffer) => ({
  sizeBytes: bytes.length,
  sha256: sha(bytes),
  pieces: bytes.length === 0 ? [] : [{ blob: sha(bytes), sizeBytes: bytes.length }],
})

const sizeOf = (entries: readonly unknown[]): number =>
  entries.reduce(
    (sum: number, entry) => sum + Number((entry as { content?: { sizeBytes: number } }).content?.sizeBytes ?? 0),
    0,
  )

export interface Forgery {
  /** What is in the place of the tree's lines. */
  readonly entries?: (entries: Entry[]) => unknown[]
  /** Blobs of its contents that come instead of others: by content. */
  readonly blobs?: (blobs: Buffer[]) => Buffer[]
  readonly manifest?: (manifest: Manifest) => unknown
}

/** A snapshot in which everything fits together, hashes and sizes too, but for what was forged. */
export const forge = (members: readonly Member[], { entries, blobs, manifest: change }: Forgery): Buffer => {
  const manifest = JSON.parse(String(members.find(({ name }) => name === MANIFEST)?.bytes)) as Manifest
  const [tree, ...others] = members.filter(({ name }) => name.startsWith('blobs/')).map(({ bytes }) => bytes)
  const lines = String(tree).trim().split('\n')
  const known = lines.filter(Boolean).map((line) => JSON.parse(line) as Entry)
  const wanted = entries ? entries(known) : known
  const bytes = Buffer.from(wanted.map((entry) => `${canonicalJson(entry as Json)}\n`).join(''))
  const filesystem = { ...manifest.filesystem, tree: whole(bytes), entries: wanted.length, sizeBytes: sizeOf(wanted) }
  const forged = json(change ? change({ ...manifest, filesystem }) : { ...manifest, filesystem })
  const all = [bytes, ...(blobs ? blobs(others) : others)]
  const sizeBytes = all.reduce((sum, blob) => sum + blob.length, 0)
  return writeArchive([
    { name: 'bramble-snapshot.json', bytes: json({ format: 'bramble.archive', manifest: sha(forged), version: 1 }) },
    { name: MANIFEST, bytes: forged },
    ...all.map((blob) => ({ name: `blobs/${sha(blob)}`, bytes: blob })),
    { name: 'end.json', bytes: json({ blobs: all.length, sizeBytes }) },
  ])
}
