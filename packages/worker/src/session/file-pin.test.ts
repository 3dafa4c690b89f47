import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { backoffMs } from './backoff.ts'
import { filePin } from './file-pin.ts'

test('the network that was met first is the only one, also after a restart', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-pin-'))
  const file = join(directory, 'network.json')
  const first = { network: `0x${'1'.repeat(64)}`, publicKey: `0x02${'2'.repeat(64)}` }
  const refused = expect.objectContaining({ code: 'signature_invalid' })
  try {
    const pin = filePin(file)
    pin.check(first)
    pin.check(first)
    expect((await stat(file)).mode & 0o777).toBe(0o600)
    for (const known of [pin, filePin(file)]) {
      known.check(first)
      expect(() => known.check({ ...first, publicKey: `0x03${'2'.repeat(64)}` })).toThrow(refused)
      expect(() => known.check({ ...first, network: `0x${'3'.repeat(64)}` })).toThrow(refused)
    }
    await writeFile(file, 'not json')
    expect(() => filePin(file)).toThrow(expect.objectContaining({ code: 'conflict' }))
  } finally {
    await rm(directory, { recursive: true })
  }
})

test('waits double up to a minute, and are a random part of that', () => {
  const most = (failures: number) => backoffMs(failures, () => 1)
  expect([0, 1, 2, 6, 7, 100].map(most)).toEqual([500, 1000, 2000, 32_000, 60_000, 60_000])
  expect(backoffMs(3, () => 0.25)).toBe(1000)
})
