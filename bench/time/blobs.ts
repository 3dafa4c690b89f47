import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type BlobStore, fsStore } from '@bramble/blobs'
import { quantile, type Row, round, timed } from '../run/measure.ts'

const MIB = 1024 * 1024
const LARGE_BYTES = 1024 * MIB
const SMALL = 10_000
const SMALL_BYTES = 1000
/** Puts at once, as a snapshot has them. */
const AT_ONCE = 16
const MIN_OF_SHA256SUM = 0.6
const MIN_PER_SECOND = 5000

const writeRandom = async (path: string): Promise<void> => {
  await using file = await open(path, 'w')
  for (let at = 0; at < LARGE_BYTES; at += 16 * MIB) await file.write(randomBytes(16 * MIB))
}

const large = async (store: BlobStore, path: string, rounds: number) => {
  const times = { put: [] as number[], get: [] as number[], sha256sum: [] as number[] }
  for (let i = 0; i < rounds; i++) {
    times.sha256sum.push(await timed(() => promisify(execFile)('sha256sum', [path])))
    let put: Awaited<ReturnType<BlobStore['put']>> | undefined
    times.put.push(
      await timed(async () => {
        put = await store.put(createReadStream(path, { highWaterMark: MIB }))
      }),
    )
    const { hash } = put ?? (await store.put(new Uint8Array()))
    times.get.push(
      await timed(async () => {
        let bytes = 0
        for await (const piece of await store.get(hash)) bytes += piece.length
        if (bytes !== LARGE_BYTES) throw new Error(`${bytes} bytes came`)
      }),
    )
    await store.remove(hash)
  }
  return times
}

const inParallel = async (count: number, work: (i: number) => Promise<unknown>): Promise<void> => {
  let next = 0
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      for (let i = next++; i < count; i = next++) await work(i)
    }),
  )
}

/** Blobs on the local disk: 1 GiB of random bytes against `sha256sum` of the same file, in turns; and many small ones. */
export const blobs = async ({ quick }: { quick: boolean }): Promise<Row[]> => {
  const base = await mkdtemp(join(tmpdir(), 'bramble-bench-blobs-'))
  try {
    const path = join(base, 'large')
    await writeRandom(path)
    const directory = join(base, 'store')
    const first = await fsStore({ directory })
    const times = await large(first, path, quick ? 2 : 5)
    const contents = Array.from({ length: SMALL }, () => randomBytes(SMALL_BYTES))
    const hashes: Awaited<ReturnType<BlobStore['put']>>['hash'][] = []
    const putMs = await timed(() =>
      inParallel(SMALL, async (i) => {
        hashes[i] = (await first.put(contents[i] ?? new Uint8Array())).hash
      }),
    )
    await first.close()
    // Another process's store: everything that it reads is verified.
    await using second = await fsStore({ directory })
    const getMs = await timed(() =>
      inParallel(SMALL, async (i) => {
        const hash = hashes[i]
        if (hash !== undefined) for await (const _ of await second.get(hash));
      }),
    )
    const speed = (all: readonly number[]): number => LARGE_BYTES / 1e6 / (quantile(all, 0.5) / 1000)
    const theirs = speed(times.sha256sum)
    const row = (name: string, all: readonly number[]): Row => ({
      name: `${name} 1 GiB`,
      figures: { megabytesPerSecond: round(speed(all), 0), ofSha256sum: round(speed(all) / theirs), n: all.length },
      goal: `>= ${MIN_OF_SHA256SUM} of sha256sum`,
      reached: speed(all) / theirs >= MIN_OF_SHA256SUM,
    })
    const small = (name: string, ms: number): Row => ({
      name: `${name} ${SMALL} blobs of ${SMALL_BYTES} bytes, ${AT_ONCE} at once`,
      figures: { perSecond: round(SMALL / (ms / 1000), 0) },
      goal: `>= ${MIN_PER_SECOND}/s`,
      reached: SMALL / (ms / 1000) >= MIN_PER_SECOND,
    })
    return [
      row('put', times.put),
      row('get', times.get),
      { name: 'sha256sum 1 GiB', figures: { megabytesPerSecond: round(theirs, 0), n: times.sha256sum.length } },
      small('put', putMs),
      small('get', getMs),
    ]
  } finally {
    await rm(base, { recursive: true, force: true })
  }
}
