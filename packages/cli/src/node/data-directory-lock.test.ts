import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { lockDataDirectory } from './data-directory-lock.ts'

let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'bramble-lock-'))
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

/** What holds the lock is kept: one that nobody refers to is closed when it is collected. */
const holdInChild = async () => {
  const script = `import { lockDataDirectory } from ${JSON.stringify(new URL('./data-directory-lock.ts', import.meta.url).href)}
    globalThis.held = lockDataDirectory(${JSON.stringify(directory)}); console.log('held'); setInterval(() => {}, 1e6)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [said] = await once(child.stdout, 'data')
  expect(String(said)).toBe('held\n')
  return child
}

test('a second node of the same directory is refused, in this process and in another', async () => {
  using _lock = lockDataDirectory(directory)
  expect(() => lockDataDirectory(directory)).toThrow(expect.objectContaining({ code: 'conflict' }))
})

test('another process is named, and its kill -9 frees the directory', async () => {
  const child = await holdInChild()
  try {
    expect(() => lockDataDirectory(directory)).toThrow(
      expect.objectContaining({ code: 'conflict', detail: expect.stringContaining(`pid ${child.pid}`) }),
    )
  } finally {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  using _lock = lockDataDirectory(directory)
})

test('disposing frees it, twice is safe', () => {
  const lock = lockDataDirectory(directory)
  lock[Symbol.dispose]()
  lock[Symbol.dispose]()
  using _lock = lockDataDirectory(directory)
})

test('a directory that is not there is made, for its owner only', () => {
  const deep = join(directory, 'a', 'b')
  using _lock = lockDataDirectory(deep)
  expect(statSync(deep).mode & 0o777).toBe(0o700)
})
