import { access, lstat, mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { BrambleError } from '@bramble/protocol'
import { imageInvalid } from './image-errors.ts'
import type { ImportContext } from './located.ts'
import { type ImageTools, lastWords, runTool, type ToolResult } from './run-tool.ts'

const POLICY = '/etc/containers/policy.json'
const WATCH_MS = 200
/** A registry that stops answering must not hold an import for ever. */
const PULL_TIMEOUT_MINUTES = 60

/** Runs skopeo under the host's signature policy where there is one (containers-policy.json(5)). */
export const runSkopeo = async (
  args: readonly string[],
  context: { tools: Pick<ImageTools, 'skopeo'>; work: string; signal: AbortSignal },
): Promise<ToolResult> => {
  const hasPolicy = await access(POLICY).then(
    () => true,
    () => false,
  )
  const options = [`--command-timeout=${PULL_TIMEOUT_MINUTES}m`, ...(hasPolicy ? [] : ['--insecure-policy'])]
  return runTool(context.tools.skopeo, [...options, ...args], { signal: context.signal, env: { TMPDIR: context.work } })
}

/**
 * Copies an image into `directory`, in skopeo's `dir` form: blobs by digest and the manifest's own bytes, so that the
 * digest stays what the source says. What arrives is weighed while it does: a source that sends more than the image
 * limit is cut off.
 */
export const skopeoCopy = async (
  from: string,
  directory: string,
  context: ImportContext,
  fail: (detail: string) => BrambleError,
  options: { args?: readonly string[]; totalBytes?: number } = {},
): Promise<void> => {
  await mkdir(directory, { mode: 0o700 })
  const tooLarge = new AbortController()
  const watch = setInterval(() => {
    directoryBytes(context.work).then((bytes) => {
      if (bytes > context.bytes.maxBytes) tooLarge.abort()
      const fraction = options.totalBytes ? Math.min(1, bytes / options.totalBytes) : undefined
      context.progress({ phase: 'copy', message: 'pulling', ...(fraction !== undefined && { fraction }) })
    })
  }, WATCH_MS)
  try {
    const signal = AbortSignal.any([context.signal, tooLarge.signal])
    const args = ['copy', '--quiet', ...(options.args ?? []), from, `dir:${directory}`]
    const { exitCode, message } = await runSkopeo(args, { ...context, signal })
    if (exitCode !== 0) throw fail(lastWords(message))
  } catch (cause) {
    if (tooLarge.signal.aborted && !context.signal.aborted) {
      throw imageInvalid(`it is larger than the limit of ${context.bytes.maxBytes} bytes (maxImageBytes)`)
    }
    throw cause
  } finally {
    clearInterval(watch)
  }
}

/** Bytes in a directory's files, two levels deep; files that vanish meanwhile count nothing. */
const directoryBytes = async (directory: string, depth = 2): Promise<number> => {
  let bytes = 0
  for (const entry of await readdir(directory, { withFileTypes: true }).catch(() => [])) {
    const path = join(directory, entry.name)
    if (entry.isDirectory() && depth > 1) bytes += await directoryBytes(path, depth - 1)
    else bytes += (await lstat(path).catch(() => undefined))?.size ?? 0
  }
  return bytes
}
