import type { RouteTokens } from '@bramble/gateway'
import { isLoopback } from '@bramble/http'
import { wasmCurve } from '@bramble/identity/node'
import { openWorker, type Worker, type WorkerOptions } from '@bramble/worker'
import type { Logger } from 'pino'
import type { NodeConfig } from '../node/node-config.ts'
import { type RunningNode, startNode } from '../node/start-node.ts'
import { version } from '../version.ts'

export interface StartWorkerOptions
  extends Pick<WorkerOptions, 'url' | 'token' | 'name' | 'slots' | 'labels' | 'region' | 'transport' | 'onEvent'> {
  readonly config: NodeConfig
  readonly log: Logger
  /** Where users reach the node's gateway. Default: where it listens, if that is no loopback address, or the network is one of this host. */
  readonly gatewayUrl?: string | undefined
  /** Users are on this host: a loopback address will do. */
  readonly local?: boolean
}

/** A node with its gateway, and its membership of a network. */
export interface RunningWorker {
  readonly node: RunningNode
  readonly worker: Worker
  /** Drains for up to `graceMs`, then ends the node. */
  close(options: { graceMs: number }): Promise<void>
}

const isReachable = (url: string): boolean => !isLoopback(new URL(url).hostname.replace(/^\[(.*)\]$/, '$1'))

export const startWorker = async (options: StartWorkerOptions): Promise<RunningWorker> => {
  const { config, log, local = false, gatewayUrl, ...joining } = options
  let worker: Worker | undefined
  // The gateway is there before the node has joined; until then no token is good for it.
  const routeTokens: RouteTokens = {
    curve: wasmCurve(),
    joined: () => worker?.network && { ...worker.network, node: worker.node },
    now: () => worker?.now() ?? Date.now(),
    allows: (claims) => worker?.instances.allows(claims) === true,
  }
  await using undo = new AsyncDisposableStack()
  const node = undo.use(await startNode({ config, log, listen: true, routeTokens }))
  const isThere = (url: string): boolean => local || isReachable(url) || !isReachable(joining.url)
  const own = node.url !== undefined && isThere(node.url) ? node.url : undefined
  const { dataDirectory } = config
  const opened = await openWorker({
    ...joining,
    ...{ engine: node.engine, dataDirectory, version: version(), gatewayUrl: gatewayUrl ?? own },
  })
  worker = opened
  const held = undo.move()
  return {
    ...{ node, worker: opened },
    close: async ({ graceMs }) => {
      await opened.close({ graceMs })
      await held.disposeAsync()
    },
  }
}
