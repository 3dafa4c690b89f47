import { createHash } from 'node:crypto'
import { type BlobStore, contentWriter, type Lease } from '@bramble/blobs'
import {
  type BlobHash,
  type Content,
  canonicalJson,
  type Json,
  type SnapshotManifest,
  type TreeEntry,
} from '@bramble/protocol'
import { storeManifest } from '../../content/manifest.ts'
import { tarEnd, tarHeader, tarPadding } from '../tar.ts'

export const sha = (bytes: string | Uint8Array): BlobHash =>
  createHash('sha256').update(bytes).digest('hex') as BlobHash

export const ATTRIBUTES = { mode: 0o644, uid: 0, gid: 0, modifiedNs: '1700000000000000000' }

/** A content that is one blob. */
export const whole = (bytes: Uint8Array): Content => ({
  sizeBytes: bytes.length,
  sha256: sha(bytes),
  pieces: [{ blob: sha(bytes), sizeBytes: bytes.length }],
})

export const manifestOf = (
  filesystem: SnapshotManifest['filesystem'],
  memory?: SnapshotManifest['memory'],
): SnapshotManifest => ({
  version: 1,
  kind: 'bramble.snapshot',
  takenAt: '2026-01-02T03:04:05.678Z',
  image: { digest: `sha256:${'0'.repeat(64)}`, name: 'debian' },
  filesystem,
  config: { env: { A: 'b' }, cpus: 1, memoryMb: 64, diskMb: 100, pids: 10, network: 'none' },
  ...(memory && { memory }),
})

export const REQUIRES = { architecture: 'x64', runtime: 'test', format: 'test 1', kernel: '6.0', cpuFeatures: ['sse'] }

export const linesOf = (entries: readonly unknown[]): Buffer =>
  Buffer.from(entries.map((entry) => `${typeof entry === 'string' ? entry : canonicalJson(entry as Json)}\n`).join(''))

export interface Files {
  readonly [path: string]: Uint8Array
}

/** A snapshot with these files, and a memory of these, in a store. */
export const putSnapshot = async (store: BlobStore, lease: Lease, files: Files, memory?: Files): Promise<BlobHash> => {
  const put = async (some: Files): Promise<Map<string, Content>> => {
    const writer = contentWriter({ store, lease })
    const added = new Map<string, () => Content>()
    for (const [path, bytes] of Object.entries(some)) added.set(path, await writer.add(bytes))
    await writer.finish()
    return new Map([...added].map(([path, contentOf]) => [path, contentOf()]))
  }
  const contents = await put(files)
  const directories = new Set(
    [...contents.keys()].flatMap((path) => path.split('/').map((_, at, all) => all.slice(0, at).join('/'))),
  )
  const entries: TreeEntry[] = [
    ...[...directories]
      .filter((path) => path !== '')
      .map((path) => ({ type: 'directory' as const, path, ...ATTRIBUTES })),
    ...[...contents].map(([path, content]) => ({ type: 'file' as const, path, ...ATTRIBUTES, content })),
  ].sort((left, right) => (left.path < right.path ? -1 : 1))
  const tree = (await put({ tree: linesOf(entries) })).get('tree')
  if (tree === undefined) throw new Error('the tree was not stored')
  const sizeBytes = Object.values(files).reduce((sum, { length }) => sum + length, 0)
  const saved = memory && Object.fromEntries(await put(memory))
  const manifest = manifestOf(
    { tree, entries: entries.length, sizeBytes },
    saved && {
      requires: REQUIRES,
      files: saved,
      sizeBytes: Object.values(saved).reduce((sum, content) => sum + content.sizeBytes, 0),
      processes: [{ pid: 1, command: 'sh' }],
      ports: [80],
    },
  )
  return (await storeManifest(store, lease, manifest)).hash
}

export interface Member {
  readonly name: string
  readonly bytes: Buffer
  /** Another header than the one that is right. */
  readonly header?: Buffer
}

export const pack = (members: readonly Member[]): Buffer =>
  Buffer.concat([
    ...members.flatMap(({ name, bytes, header }) => [
      header ?? tarHeader(name, bytes.length),
      bytes,
      tarPadding(bytes.length),
    ]),
    tarEnd(),
  ])

export const unpack = (archive: Buffer): Member[] => {
  const members: Member[] = []
  for (let at = 0; archive[at] !== 0; ) {
    const name = archive.toString('latin1', at, archive.indexOf(0, at))
    const size = Number.parseInt(archive.toString('latin1', at + 124, at + 135), 8)
    members.push({ name, bytes: archive.subarray(at + 512, at + 512 + size) })
    at += 512 + size + tarPadding(size).length
  }
  return members
}

const jsonMember = (name: string, value: unknown): Member => ({
  name,
  bytes: Buffer.from(canonicalJson(value as Json)),
})

/** What somebody may write by hand: lines of a tree, and blobs, and a manifest around them that fits. */
export const forge = (
  entries: readonly unknown[],
  blobs: readonly Uint8Array[],
  change: (manifest: Record<string, unknown>) => Record<string, unknown> = (manifest) => manifest,
): Member[] => {
  const tree = linesOf(entries)
  const files = entries.filter((entry): entry is { content: Content } => (entry as { type?: string }).type === 'file')
  const sizeBytes = files.reduce((sum, { content }) => sum + content.sizeBytes, 0)
  const manifest = change({ ...manifestOf({ tree: whole(tree), entries: entries.length, sizeBytes }) })
  const bytes = Buffer.from(canonicalJson(manifest as Json))
  const all = [tree, ...blobs]
  return [
    jsonMember('bramble-snapshot.json', { format: 'bramble.archive', version: 1, manifest: sha(bytes) }),
    { name: 'manifest.json', bytes },
    ...all.map((blob) => ({ name: `blobs/${sha(blob)}`, bytes: Buffer.from(blob) })),
    jsonMember('end.json', { blobs: all.length, sizeBytes: all.reduce((sum, { length }) => sum + length, 0) }),
  ]
}
