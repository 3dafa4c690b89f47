import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BrambleError } from '@bramble/protocol'
import { expect, it } from 'vitest'
import { byteBudget } from './byte-budget.ts'
import { DEFAULT_TOOLS } from './run-tool.ts'
import { craftTar } from './testing/craft-tar.ts'
import { type WrittenLayer, writeLayer } from './write-layer.ts'

const ARCHIVE = craftTar([
  { name: 'a/', flag: '5', mode: 0o755 },
  { name: 'a/file', body: 'x'.repeat(700) },
  { name: 'a/link', flag: '2', link: 'file' },
  { name: 'a/hard', flag: '1', link: 'a/file' },
  { name: 'short', pax: { path: 'a/long name', mtime: '1.5' }, body: 'y' },
  { name: '././@LongLink', flag: 'L', body: `a/${'n'.repeat(120)}\0` },
  { name: 'a/nnn', body: 'z' },
  { name: 'fifo', flag: '6' },
])

async function* inChunks(data: Buffer, bytes: number) {
  for (let at = 0; at < data.length; at += bytes) yield data.subarray(at, at + bytes)
}

const write = async (data: Buffer, chunkBytes = 4096): Promise<{ layer: WrittenLayer; written: Buffer }> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-layer-'))
  try {
    const path = join(directory, 'layer')
    const entries = { maxEntries: 100, usedEntries: 0 }
    const bytes = byteBudget(1_000_000)
    const layer = await writeLayer(inChunks(data, chunkBytes), path, { bytes, entries, tools: DEFAULT_TOOLS })
    return { layer, written: await readFile(path) }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

it('a good layer passes unchanged, however its bytes arrive', async () => {
  for (const chunkBytes of [1, 7, 512, 100_000]) {
    const { layer, written } = await write(ARCHIVE, chunkBytes)
    expect(written).toEqual(ARCHIVE)
    expect(layer).toMatchObject({ sizeBytes: ARCHIVE.length, entryCount: 7 })
    expect(layer.diffId).toBe(createHash('sha256').update(ARCHIVE).digest('hex'))
    expect(layer.sha256).toBe(layer.diffId)
  }
})

it('what follows the end marker is hashed, and left out', async () => {
  const trailed = Buffer.concat([ARCHIVE, Buffer.from('trailing')])
  const { layer, written } = await write(trailed)
  expect(written).toEqual(ARCHIVE)
  expect(layer.diffId).toBe(createHash('sha256').update(trailed).digest('hex'))
})

it('any damage is refused as such, or leaves an archive that passes again', { timeout: 120_000 }, async () => {
  // A linear congruential generator (Numerical Recipes): the same damage in every run.
  let state = 20_260_101
  const random = (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state % below
  }
  let refused = 0
  for (let round = 0; round < 400; round++) {
    const damaged = Buffer.from(ARCHIVE)
    for (let i = 0; i <= random(4); i++) damaged[random(damaged.length)] = random(256)
    const block = random(damaged.length / 512) * 512
    // Half of the time the checksum is made right again, so that the damage is read.
    if (round % 2 === 0) fixChecksum(damaged.subarray(block, block + 512))
    const cut = round % 5 === 0 ? damaged.subarray(0, random(damaged.length)) : damaged
    try {
      const { written } = await write(cut)
      expect((await write(written)).written).toEqual(written)
    } catch (error) {
      expect(error).toBeInstanceOf(BrambleError)
      expect(error).toMatchObject({ code: 'image_invalid' })
      refused++
    }
  }
  expect(refused).toBeGreaterThan(50)
  expect(refused).toBeLessThan(400)
})

const fixChecksum = (block: Buffer) => {
  block.fill(' ', 148, 156)
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
}
