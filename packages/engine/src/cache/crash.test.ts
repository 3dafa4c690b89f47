import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { fsStore } from '@bramble/blobs'
import { expect, test } from 'vitest'
import { silentLog, systemClock } from '../options.ts'
import { sha256 } from '../outcome.ts'
import { openResultCache } from './open-result-cache.ts'
import { KEY } from './testing.ts'

const CHILD = fileURLToPath(new URL('./crash-child.ts', import.meta.url))
const AT_ONCE = 4

const told = async (directory: string, dieAt: number): Promise<string[]> => {
  const child = spawn(process.execPath, [CHILD, directory, String(dieAt)], { stdio: ['ignore', 'pipe', 'inherit'] })
  const said = await text(child.stdout)
  return said.split('\n').filter((line) => line !== '')
}

/** What another process finds in the store. */
const found = async (directory: string): Promise<string | undefined> => {
  await using store = await fsStore({ directory })
  const deps = { store, log: silentLog, clock: systemClock, notice: () => {}, grant: async () => {} }
  const cache = await openResultCache({ ...deps, node: 'looks', limits: { storeWaitMs: 30_000 } })
  try {
    const entry = await cache.find('acme', KEY)
    return entry && sha256(entry.result.stdout)
  } finally {
    await cache.close()
  }
}

/** True when it came to its end alive. */
const killedAt = async (dieAt: number): Promise<boolean> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-cache-crash-'))
  try {
    const facts = await told(directory, dieAt)
    const has = await found(directory)
    const first = sha256('first '.repeat(10_000))
    const second = sha256('second')
    const where = `killed at step ${dieAt}, after ${facts.join(', ')}`
    if (facts.includes(`stored ${second}`)) expect(has, where).toBe(second)
    else if (facts.includes('forgotten')) expect([second, undefined], where).toContain(has)
    else expect([first, undefined], where).toContain(has)
    return facts.at(-1) === 'closed'
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

test('a node killed at any step of keeping or forgetting leaves whole results, and none that was forgotten', async () => {
  let alive = false
  let dieAt = 0
  for (; !alive; dieAt += AT_ONCE) {
    const ends = await Promise.all(Array.from({ length: AT_ONCE }, (_, index) => killedAt(dieAt + index)))
    alive = ends.every((end) => end)
  }
  expect(dieAt).toBeGreaterThan(20)
}, 300_000)
