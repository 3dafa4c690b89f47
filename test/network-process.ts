import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { Bramble } from '@bramble/sdk'

const MAIN = fileURLToPath(new URL('../packages/cli/src/main.ts', import.meta.url))

/** A `bramble` in a process of its own that says in JSON lines what happens. */
export interface BrambleProcess extends AsyncDisposable {
  readonly pid: number
  readonly ready: Readonly<Record<string, unknown>>
  readonly dataDirectory: string
  /** The first line, of those that came and of those that come, that has all of these. */
  line(having: Readonly<Record<string, unknown>>): Promise<Record<string, unknown>>
  /** Resolves with its exit code, or the signal that ended it. */
  end(signal: NodeJS.Signals): Promise<number | NodeJS.Signals | null>
}

/** Runs `bramble <args> --json` on a data directory, a fresh one unless one is given, and waits until it says that it is ready. */
export const startBramble = async (
  args: readonly string[],
  env: Record<string, string> = {},
  directory?: string,
): Promise<BrambleProcess> => {
  const dataDirectory = directory ?? mkdtempSync(join(tmpdir(), 'bramble-network-'))
  const child: ChildProcess = spawn(
    process.execPath,
    [MAIN, ...args, '--json', '--port', '0', '--data-dir', dataDirectory],
    { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, BRAMBLE_MAX_POOLED: '0', ...env } },
  )
  const exited = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>
  const lines: Record<string, unknown>[] = []
  const lookers = new Set<() => void>()
  let said = ''
  createInterface({ input: child.stdout as Readable }).on('line', (text) => {
    said = `${said}${text}\n`.slice(-4096)
    lines.push(JSON.parse(text))
    for (const look of lookers) look()
  })
  const line: BrambleProcess['line'] = (having) =>
    new Promise((resolve, reject) => {
      const look = (): void => {
        const found = lines.find((each) => Object.entries(having).every(([name, value]) => each[name] === value))
        if (found === undefined) return
        lookers.delete(look)
        resolve(found)
      }
      lookers.add(look)
      look()
      void exited.then(() => reject(new Error(`it ended before it said ${JSON.stringify(having)}: ${said}`)))
    })
  const ready = await line({ type: 'ready' })
  const end: BrambleProcess['end'] = async (signal) => {
    child.kill(signal)
    const [code, by] = await exited
    return code ?? by
  }
  return {
    ...{ pid: child.pid ?? 0, ready, dataDirectory, line, end },
    [Symbol.asyncDispose]: async () => {
      await end('SIGTERM')
      rmSync(dataDirectory, { recursive: true, force: true })
    },
  }
}

export const clientOf = ({ ready }: BrambleProcess): Bramble =>
  new Bramble({ url: String(ready.url), apiKey: String(ready.apiKey) })
