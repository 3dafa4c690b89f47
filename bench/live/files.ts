import { randomFillSync } from 'node:crypto'
import { request } from 'node:http'
import { pack } from 'tar-stream'
import { type NodeProcess, startNodeProcess } from '../../test/node-process.ts'
import { type Row, round } from '../run/measure.ts'
import { deleteInstance, startInstance } from './instance.ts'

const MIB = 1024 * 1024
const SMALL_FILES = 10_000
const SMALL_BYTES = 2048

/** Sends what `write` writes; counts what is answered. */
const transfer = (
  node: NodeProcess,
  method: string,
  path: string,
  type: string,
  write: (body: NodeJS.WritableStream) => Promise<void>,
): Promise<number> =>
  new Promise((resolve, reject) => {
    const { hostname, port } = new URL(node.url)
    const headers = { authorization: `Bearer ${node.key}`, ...(type !== '' && { 'content-type': type }) }
    const sent = request({ hostname, port, method, path, headers }, (response) => {
      let bytes = 0
      let start = ''
      response.on('data', (chunk: Buffer) => {
        if (bytes === 0) start = chunk.toString('utf8', 0, 500)
        bytes += chunk.length
      })
      response.on('end', () => {
        if ((response.statusCode ?? 0) < 300) resolve(bytes)
        else reject(new Error(`${method} ${path}: ${response.statusCode} ${start}`))
      })
      response.on('error', reject)
    })
    sent.on('error', reject)
    write(sent).then(() => sent.end(), reject)
  })

const nothing = (): Promise<void> => Promise.resolve()

/** Peak of the node's resident memory while `work` runs, above what it was before. */
const growth = async (node: NodeProcess, work: () => Promise<void>): Promise<number> => {
  const before = node.rssBytes()
  let peak = before
  const timer = setInterval(() => {
    peak = Math.max(peak, node.rssBytes())
  }, 20)
  try {
    await work()
  } finally {
    clearInterval(timer)
  }
  return Math.max(0, peak - before)
}

const timedSeconds = async (work: () => Promise<unknown>): Promise<number> => {
  const began = performance.now()
  await work()
  return (performance.now() - began) / 1000
}

/** A 1 GiB file of bytes that do not compress, up and down; and 10,000 files of 2 KiB as a tar archive, up and down. */
export const files = async (options: { quick: boolean }): Promise<Row[]> => {
  const mib = options.quick ? 128 : 1024
  const small = options.quick ? SMALL_FILES / 10 : SMALL_FILES
  await using node = await startNodeProcess()
  const id = await startInstance(node, { resources: { diskMb: 4096, memoryMb: 2048 } })
  const base = `/api/v1/instances/${id}`
  const block = Buffer.allocUnsafe(MIB)
  randomFillSync(block)

  const upload = (): Promise<number> =>
    transfer(node, 'PUT', `${base}/files/large`, 'application/octet-stream', async (body) => {
      for (let i = 0; i < mib; i++)
        if (!body.write(block)) await new Promise<void>((resolve) => body.once('drain', resolve))
    })
  let upSeconds = 0
  const upGrowth = await growth(node, async () => {
    upSeconds = await timedSeconds(upload)
  })
  let downSeconds = 0
  let got = 0
  const downGrowth = await growth(node, async () => {
    downSeconds = await timedSeconds(async () => {
      got = await transfer(node, 'GET', `${base}/files/large`, '', nothing)
    })
  })
  if (got !== mib * MIB) throw new Error(`${got} bytes came of ${mib} MiB`)

  const archive = pack()
  const treeUp = timedSeconds(() =>
    transfer(node, 'POST', `${base}/upload?path=/tree`, 'application/x-tar', async (body) => {
      for await (const chunk of archive as AsyncIterable<Buffer>)
        if (!body.write(chunk)) await new Promise<void>((resolve) => body.once('drain', resolve))
    }),
  )
  for (let i = 0; i < small; i++)
    archive.entry({ name: `d${i % 100}/f${i}` }, Buffer.from(block.subarray(i, i + SMALL_BYTES)))
  archive.finalize()
  const treeUpSeconds = await treeUp
  let treeBytes = 0
  const treeDownSeconds = await timedSeconds(async () => {
    treeBytes = await transfer(node, 'GET', `${base}/download?path=/tree`, '', nothing)
  })
  if (treeBytes < small * SMALL_BYTES) throw new Error(`${treeBytes} bytes came of the tree`)
  await deleteInstance(node, id)

  const speed = (seconds: number): number => (mib * MIB) / 1e6 / seconds
  const large = (name: string, seconds: number, grown: number): Row => ({
    name: `${name} of a ${mib} MiB file over HTTP`,
    figures: { mbPerSecond: round(speed(seconds), 0), seconds: round(seconds), nodeGrewMb: round(grown / 1e6, 0) },
    goal: '>= 300 MB/s, node grows <= 64 MB',
    reached: speed(seconds) >= 300 && grown <= 64e6,
  })
  const tree = (name: string, seconds: number): Row => ({
    name: `${name} of ${small} files of 2 KiB as a tree`,
    figures: { seconds: round(seconds) },
    goal: '< 5 s',
    reached: seconds < 5,
  })
  return [
    large('upload', upSeconds, upGrowth),
    large('download', downSeconds, downGrowth),
    tree('upload', treeUpSeconds),
    tree('download', treeDownSeconds),
  ]
}
