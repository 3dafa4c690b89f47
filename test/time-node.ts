import type { StoreStats } from '@bramble/protocol'
import { launcherOf } from '@bramble/runtime/testing'
import { hostProcesses, until } from './leftovers.ts'
import type { AskOptions, LiveNode } from './live-node.ts'
import { connectStream, type LiveSocket } from './live-socket.ts'
import type { ProgramImage } from './time-image.ts'

/** The JSON of an answer; throws where it is a problem. */
export const call = async <T>(
  node: Pick<LiveNode, 'ask'>,
  method: string,
  path: string,
  json?: unknown,
  options: AskOptions = {},
): Promise<T> => {
  const answer = await node.ask(method, `/api/v1/${path}`, { ...(json !== undefined && { json }), ...options })
  if (answer.status >= 400) throw new Error(`${method} ${path}: ${answer.status} ${answer.text}`)
  return answer.text === '' ? (undefined as T) : answer.json<T>()
}

export const importImage = (node: LiveNode, { tar }: ProgramImage, name: string): Promise<unknown> =>
  call(node, 'POST', `images?format=rootfsTar&name=${name}`, undefined, {
    body: tar,
    headers: { 'content-type': 'application/x-tar' },
  })

/** Images are uploaded, too. */
const UPLOADS_MS = 120_000

/** All that the node has stored so far is in its object store, too. */
export const untilUploaded = (node: LiveNode): Promise<void> =>
  until(
    'all is uploaded',
    async () => {
      const { pendingUploads, lowerTier } = await call<StoreStats>(node, 'GET', 'store')
      return lowerTier?.available === true && pendingUploads === 0
    },
    UPLOADS_MS,
  )

/** The machine of the node is gone: all of its processes, without a word. */
export const killMachine = async (node: LiveNode): Promise<void> => {
  const launcher = launcherOf(node.dataDirectory)
  await node.kill()
  if (launcher === undefined) return
  const children = hostProcesses().filter(({ parent }) => parent === launcher)
  for (const pid of [launcher, ...children.map((child) => child.pid)]) process.kill(pid, 'SIGKILL')
}

/** Waits until a command has written so many whole lines, and gives all that it has written. */
export const lines = async (stream: LiveSocket, id: string, count: number): Promise<string[]> =>
  await stream.until(() => {
    const all = stream.output(id).split('\n').slice(0, -1)
    return all.length >= count && all
  })

const SHELL = 'all=; while read line; do all="$all$line"; echo $all; done'

/** A shell in an instance that remembers all the words it was told, and nothing else does. */
export const shellOf = (node: LiveNode, id: string) => ({
  async start(): Promise<void> {
    using stream = await connectStream(node, id)
    stream.send({ type: 'exec', id: 'shell', command: SHELL, stdin: true })
    await stream.event('started')
  },
  /** What it knows when it has been told one more. */
  async tell(word: string): Promise<string> {
    using stream = await connectStream(node, id)
    await stream.event('state')
    stream.send({ type: 'stdin', id: 'shell', data: `${word}\n` })
    const [last = ''] = await lines(stream, 'shell', 1)
    return last
  },
})
