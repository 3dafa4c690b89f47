import { tarEnd, tarHeader, tarPadding } from './tar.ts'

/** Files by their paths below the place where they go; `mode` is 0o644 where it is not given. */
export type FileTree = Readonly<Record<string, TreeFile>>
export type TreeFile = string | Uint8Array | { readonly content: string | Uint8Array; readonly mode?: number }

/** The tree as a tar archive, piece by piece. */
export async function* tarOf(tree: FileTree): AsyncGenerator<Uint8Array, void, undefined> {
  const encoder = new TextEncoder()
  const modifiedAtMs = Date.now()
  for (const [path, file] of Object.entries(tree)) {
    const { content, mode = 0o644 } = typeof file === 'string' || file instanceof Uint8Array ? { content: file } : file
    const bytes = typeof content === 'string' ? encoder.encode(content) : content
    yield tarHeader({ path: path.replace(/^\/+/, ''), type: 'file', sizeBytes: bytes.length, mode, modifiedAtMs })
    yield bytes
    yield tarPadding(bytes.length)
  }
  yield tarEnd()
}
