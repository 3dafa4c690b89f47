import { readdir, readFile } from 'node:fs/promises'

/** Ids of the processes that have `word` in their arguments. */
export const processesNaming = async (word: string): Promise<string[]> => {
  const found: string[] = []
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
    if (command.includes(word)) found.push(pid)
  }
  return found
}
