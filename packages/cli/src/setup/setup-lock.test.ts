import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { lockSetup } from './setup-lock.ts'

const root = mkdtempSync(join(tmpdir(), 'bramble-setup-'))
afterEach(() => rmSync(root, { recursive: true, force: true }))

test('a second set-up waits for the first, or until it is given up', async () => {
  const { signal } = new AbortController()
  const first = await lockSetup(root, { signal, onWait: () => expect.unreachable() })
  const waits = Promise.withResolvers<void>()
  const second = lockSetup(root, { signal, onWait: waits.resolve })
  await waits.promise
  await expect(lockSetup(root, { signal: AbortSignal.abort(), onWait: () => {} })).rejects.toThrow('aborted')
  first[Symbol.dispose]()
  const held = await second
  held[Symbol.dispose]()
})
