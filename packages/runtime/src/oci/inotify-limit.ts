import { readFile, writeFile } from 'node:fs/promises'

const LIMIT = '/proc/sys/fs/inotify/max_user_instances'
/** Watches of files in all sandboxes of a host at once. */
const INSTANCES = 8192

/**
 * Raises how many inotify instances root may have (inotify(7)), which kernels set to 128: the instances of every user
 * namespace count toward whoever made it, and that is root for all sandboxes. A limit that was set higher stays, and one that
 * cannot be set is met as `queue_full` by whoever watches one file too many.
 */
export const raiseInotifyLimit = async (): Promise<void> => {
  const now = Number(await readFile(LIMIT, 'utf8').catch(() => Number.POSITIVE_INFINITY))
  if (now < INSTANCES) await writeFile(LIMIT, String(INSTANCES)).catch(() => {})
}
