import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Sandbox } from '../runtime.ts'
import { endOf, outputOf } from './run-command.ts'

const SOURCE = fileURLToPath(new URL('./hostile.c', import.meta.url))
export const HOSTILE = '/tmp/hostile'

/** The compiled `hostile.c`, or why there is none. */
export const buildHostile = async (): Promise<Buffer | { skip: string }> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-hostile-'))
  try {
    const binary = join(directory, 'hostile')
    await promisify(execFile)('cc', ['-static', '-O1', '-Wall', '-Wextra', '-Werror', '-o', binary, SOURCE])
    return await readFile(binary)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { skip: 'no C compiler: install gcc' }
    throw error
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

export const putHostile = async (sandbox: Sandbox, program: Buffer): Promise<void> => {
  const end = await endOf(sandbox, ['/.bramble/agent', 'put', HOSTILE, '755'], { input: program })
  if (end !== 0) throw new Error(`the hostile program could not be put into the sandbox: ${end}`)
}

/** Each attempt of a verb with the errno it ended with; 0 is success. */
export const attempts = async (sandbox: Sandbox, ...words: string[]): Promise<Record<string, number>> => {
  const lines = (await outputOf(sandbox, [HOSTILE, ...words])).trim().split('\n')
  return Object.fromEntries(
    lines.map((line): [string, number] => {
      const at = line.lastIndexOf(' ')
      return [line.slice(0, at), Number(line.slice(at + 1))]
    }),
  )
}
