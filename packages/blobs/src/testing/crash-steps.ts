import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'

const AT_ONCE = 3
/** A step that no program has. */
const WHOLE = 1_000_000

/** One run of the program: its words before the step, and what is looked at when it has ended. */
export interface CrashRun<Fact> {
  readonly words: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  inspect(facts: readonly Fact[]): Promise<void>
}

/**
 * Starts a program again and again that kills itself at step 0, 1, 2, …, until it comes to its end; resolves with the number of
 * its steps. It tells what it has done as lines of JSON, `done` last.
 */
export const killAtEveryStep = async <Fact extends { readonly done?: boolean }>(
  program: string,
  begin: (step: number) => Promise<CrashRun<Fact>>,
): Promise<number> => {
  const cache = await mkdtemp(join(tmpdir(), 'bramble-compiled-'))
  let next = 0
  let last = Number.POSITIVE_INFINITY
  const worker = async (): Promise<void> => {
    while (next <= last) {
      const step = next++
      const { words, env, inspect } = await begin(step)
      const { killed, facts } = await run<Fact>([program, ...words, String(step)], {
        ...env,
        NODE_COMPILE_CACHE: cache,
      })
      if (!killed) last = Math.min(last, step)
      if (facts.some(({ done }) => done) === killed) throw new Error(`at step ${step} it told ${JSON.stringify(facts)}`)
      await inspect(facts)
    }
  }
  try {
    // A process that is killed leaves nothing of what it compiled: one that is not does it for all.
    const { words, env } = await begin(WHOLE)
    await run([program, ...words, String(WHOLE)], { ...env, NODE_COMPILE_CACHE: cache })
    await Promise.all(Array.from({ length: AT_ONCE }, worker))
    return last
  } finally {
    await rm(cache, { recursive: true, force: true })
  }
}

const run = async <Fact>(
  words: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<{ killed: boolean; facts: Fact[] }> => {
  const child = spawn(process.execPath, words, { env, stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = new Promise<NodeJS.Signals | number | null>((resolve) => {
    child.once('close', (code, signal) => resolve(signal ?? code))
  })
  const [out, errors, end] = await Promise.all([text(child.stdout), text(child.stderr), ended])
  if (end !== 0 && end !== 'SIGKILL') throw new Error(`the program ended with ${end}: ${errors}`)
  // The last line may be cut.
  const lines = out.split('\n').filter((line) => line.endsWith('}'))
  return { killed: end === 'SIGKILL', facts: lines.map((line): Fact => JSON.parse(line)) }
}
