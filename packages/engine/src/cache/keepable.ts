import type { ExecutionResult } from '@bramble/protocol'
import type { CacheWish } from './result-cache.ts'

/** The command ran to its own end: who waited for it has its result, too. */
export const isComplete = ({ status, exitCode }: ExecutionResult): boolean =>
  (status === 'succeeded' || status === 'failed') && exitCode !== null

const textBytes = ({ stdout, stderr, outputs }: ExecutionResult): number => {
  let bytes = stdout.length + stderr.length
  for (const output of Object.values(outputs)) if ('content' in output) bytes += output.content.length
  return bytes
}

/**
 * Whether a result may answer later requests: a whole one, of a command that ended by itself. One that was killed by a signal,
 * could not be started, or whose output was cut or could not be read may come out otherwise the next time.
 */
export const isKeepable = (
  { ttlMs, failures = false }: Pick<CacheWish, 'ttlMs' | 'failures'>,
  result: ExecutionResult,
  maxResultBytes: number,
): boolean => {
  if (ttlMs === 0 || !isComplete(result) || result.truncated) return false
  if (result.signal !== undefined || result.message !== undefined) return false
  if (result.status !== 'succeeded' && !failures) return false
  if (Object.values(result.outputs).some((output) => 'error' in output && output.error === 'unreadable')) return false
  return textBytes(result) <= maxResultBytes
}
