/**
 * The files of a sandbox, by programs of the agent that run in it as the sandbox's user: a path can lead nowhere that a
 * command of that user could not go. Names are bytes: text, or a `Uint8Array` where they are no UTF-8. Relative paths
 * begin at `/`.
 *
 * Errors: `file_not_found`; `file_refused` with the sandbox's words (permission, not a directory, no room, …);
 * `invalid_request` for an empty path or one with a NUL byte; `sandbox_died`.
 */
export interface SandboxFiles {
  stat(path: PathInput, options?: { followLinks?: boolean } & FileCall): Promise<FileInfo>
  /** The entries of a directory, sorted by name; with `recursive`, of the whole tree. Stops after `max` (then `truncated`). */
  list(
    path: PathInput,
    options?: { recursive?: boolean; max?: number } & FileCall,
  ): Promise<{ items: FileInfo[]; truncated: boolean }>
  /** A regular file, or a range of it. `body` must be read or returned; it goes at the reader's pace. */
  read(
    path: PathInput,
    options?: { offset?: number; length?: number } & FileCall,
  ): Promise<{ info: FileInfo; body: AsyncIterable<Buffer> }>
  /**
   * Whole or not at all: written beside, then renamed. Parents are made. A symbolic link at `path` is followed when it leads
   * to a file, so that what reads it sees the change. Long runs of zeros become holes. Without `mode` an existing file
   * keeps its mode and owner; a new one gets 0644.
   */
  write(
    path: PathInput,
    content: Uint8Array | AsyncIterable<Uint8Array>,
    options?: { mode?: number; owner?: Owner } & FileCall,
  ): Promise<FileInfo>
  makeDirectory(path: PathInput, options?: { parents?: boolean; mode?: number } & FileCall): Promise<void>
  /** Within the sandbox, over file systems too; replaces a file at `to`, never a directory that is not empty. */
  move(from: PathInput, to: PathInput, options?: FileCall): Promise<void>
  /** Without `recursive` a directory must be empty. */
  remove(path: PathInput, options?: { recursive?: boolean } & FileCall): Promise<void>
  setAttributes(
    path: PathInput,
    attributes: { mode?: number; owner?: Owner; modifiedAtMs?: number },
    options?: FileCall,
  ): Promise<void>
  /** A tar archive (pax, POSIX.1-2001) of a file or a tree, with names relative to it. */
  readTree(path: PathInput, options?: FileCall): AsyncIterable<Buffer>
  /**
   * Unpacks a tar archive (ustar, pax, GNU) below a directory, which is made. Entries that would leave it (`..`, absolute,
   * through a symbolic link) are refused, and nothing after them is written. Devices are skipped and counted.
   */
  writeTree(
    path: PathInput,
    archive: AsyncIterable<Uint8Array>,
    options?: FileCall,
  ): Promise<{ files: number; bytes: number; skipped: number }>
  /**
   * What changes in a file or a directory and, with `recursive`, below it. Begins with `{event: 'ready'}` once everything is
   * watched. Bounded: `overflow` says that some were missed (the kernel's queue, or directories past the limit).
   */
  watch(path: PathInput, options?: { recursive?: boolean } & FileCall): AsyncIterable<FileChange>
}

export type PathInput = string | Uint8Array

export interface FileCall {
  /** Whose permissions. Default that of the instance. */
  readonly user?: string | undefined
  readonly signal?: AbortSignal | undefined
}

export interface Owner {
  readonly uid: number
  readonly gid: number
}

export interface FileInfo {
  /** Absolute, as bytes. */
  readonly path: Buffer
  readonly type: 'file' | 'directory' | 'symlink' | 'fifo' | 'socket' | 'device'
  readonly sizeBytes: number
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly modifiedAtMs: number
  readonly target?: Buffer
}

export type FileChange =
  | { readonly event: 'ready' }
  | { readonly event: 'overflow'; readonly detail: string }
  | { readonly event: 'create' | 'modify' | 'delete'; readonly path: Buffer; readonly isDirectory: boolean }
  /** Within what is watched; over its border it is `create` or `delete`. */
  | { readonly event: 'move'; readonly path: Buffer; readonly to: Buffer; readonly isDirectory: boolean }
