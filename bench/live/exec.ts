import { startDockerd } from '@bramble/runtime/testing/dockerd'
import { startNodeProcess } from '../../test/node-process.ts'
import { baseRootfs } from '../run/base-image.ts'
import { loadIntoDocker, runDocker } from '../run/competitors.ts'
import { figuresOf, quantile, type Row, round, timed } from '../run/measure.ts'
import { deleteInstance, onMessage, openSocket, startInstance } from './instance.ts'

const ROUNDS = 10
const WARM_UP = 100

/**
 * One client runs `true` in a running instance, one after the other, over the streaming WebSocket, over HTTP on a kept-alive
 * connection, and by `docker exec` in a running container of the same image. Rounds of the three alternate.
 */
export const exec = async (options: { quick: boolean }): Promise<Row[]> => {
  const perRound = options.quick ? 20 : 100
  await using node = await startNodeProcess()
  await using docker = await startDockerd()
  const image = await loadIntoDocker(baseRootfs(node), docker.socketPath)
  const container = `bramble-bench-${process.pid}`
  await runDocker(docker.socketPath, [
    'run',
    '--detach',
    '--network',
    'none',
    '--name',
    container,
    image,
    'sleep',
    '3600',
  ])
  try {
    const id = await startInstance(node)
    await using socket = await openSocket(node, `/api/v1/containers/${id}/stream?processes=false`)
    let ended: ((code: number) => void) | undefined
    onMessage(socket, (message) => {
      if (message.type === 'exit') ended?.(message.code ?? -1)
      if (message.type === 'error') throw new Error(message.message)
    })
    const overSocket = async (): Promise<void> => {
      const code = await new Promise<number>((resolve) => {
        ended = resolve
        socket.send({ type: 'exec', command: ['true'], stdin: false })
      })
      if (code !== 0) throw new Error(`true ended with ${code}`)
    }
    const overHttp = async (): Promise<void> => {
      const { exitCode } = await node.call<{ exitCode: number }>('POST', `/api/v1/instances/${id}/exec`, {
        command: ['true'],
      })
      if (exitCode !== 0) throw new Error(`true ended with ${exitCode}`)
    }
    const byDocker = (): Promise<void> => runDocker(docker.socketPath, ['exec', container, 'true'])
    const times = { socket: [] as number[], http: [] as number[], docker: [] as number[] }
    for (let i = 0; i < WARM_UP; i++) {
      await overSocket()
      await overHttp()
    }
    await byDocker()
    for (let round = 0; round < ROUNDS; round++) {
      for (let i = 0; i < perRound; i++) times.socket.push(await timed(overSocket))
      for (let i = 0; i < perRound; i++) times.http.push(await timed(overHttp))
      for (let i = 0; i < 3; i++) times.docker.push(await timed(byDocker))
    }
    await deleteInstance(node, id)
    const [socketP50, httpP50, dockerP50] = [times.socket, times.http, times.docker].map((all) => quantile(all, 0.5))
    const faster = (dockerP50 ?? 0) / Math.max(socketP50 ?? 0, httpP50 ?? 0)
    return [
      {
        name: 'exec `true` in an instance over the WebSocket',
        figures: { ...figuresOf(times.socket), unit: 'ms' },
        goal: 'p50 <= 2.5 ms',
        reached: (socketP50 ?? Number.NaN) <= 2.5,
      },
      {
        name: 'exec `true` in an instance over HTTP',
        figures: { ...figuresOf(times.http), unit: 'ms' },
        goal: 'p50 <= 4 ms',
        reached: (httpP50 ?? Number.NaN) <= 4,
      },
      {
        name: 'docker exec CONTAINER true',
        figures: { ...figuresOf(times.docker), unit: 'ms', timesSlowerThanTheSlowerOfOurs: round(faster, 0) },
        goal: '>= 30 times ours',
        reached: faster >= 30,
      },
    ]
  } finally {
    await runDocker(docker.socketPath, ['rm', '--force', container])
  }
}
