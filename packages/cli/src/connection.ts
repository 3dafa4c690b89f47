import { readFileSync } from 'node:fs'
import type { Bramble } from '@bramble/sdk'
import type { Command } from 'commander'
import { type CliConfig, readConfig } from './config.ts'
import { adminKeyFile, dataDirectory, networkDirectory } from './data-directory.ts'
import { EXIT, ExitError } from './exit.ts'
import { runningNode } from './node/node-file.ts'

/** The options that say which node a command talks to. */
export interface ConnectionOptions {
  readonly url?: string
  readonly key?: string
}

export interface NodeAddress {
  readonly url: string
  readonly apiKey: string | undefined
  /** It runs on this host, on this data directory: paths mean the same there as here. */
  readonly local: boolean
  /** Where its SSH listens, as far as that is known. */
  readonly sshPort: number | undefined
}

export const addConnectionOptions = (command: Command, what = 'node'): Command =>
  command
    .option('--url <url>', `the ${what} to talk to (BRAMBLE_URL; default: the one that runs on this host)`)
    .option('--key <key>', `the API key (BRAMBLE_API_KEY; default: the admin key of the ${what} on this host)`)

/** A host may run both; commands are of one or the other. */
export type Kind = 'node' | 'network'

/**
 * Which node is meant: the one that is named, else the one that runs on this host's data directory; undefined where there
 * is neither. A network's commands mean the coordinator where both run. The admin key of this host is shown to no other node.
 */
export const findNode = (
  options: ConnectionOptions,
  config: CliConfig = readConfig(),
  kind: Kind = 'node',
): NodeAddress | undefined => {
  const directory = dataDirectory(config)
  const there = [networkDirectory(directory), directory].flatMap((place) => {
    const running = runningNode(place)
    return running === undefined ? [] : [{ place, running }]
  })
  const url = options.url ?? config.url ?? there.at(kind === 'network' ? 0 : -1)?.running.url
  if (url === undefined) return undefined
  const local = there.find(({ running }) => sameOrigin(url, running.url))
  const apiKey = options.key ?? config.apiKey ?? (local && readKey(adminKeyFile(local.place)))
  return { url, apiKey, local: local !== undefined, sshPort: local?.running.sshPort }
}

const sameOrigin = (left: string, right: string): boolean =>
  URL.canParse(left) && URL.canParse(right) && new URL(left).origin === new URL(right).origin

const readKey = (file: string): string | undefined => {
  try {
    return readFileSync(file, 'utf8').trim() || undefined
  } catch {
    return undefined
  }
}

export const clientOf = async (address: NodeAddress): Promise<Bramble> => {
  const { Bramble } = await import('@bramble/sdk')
  return new Bramble({ url: address.url, apiKey: address.apiKey })
}

/** The client of the node that is meant. Where there is none: what to do about it. */
export const connect = async (options: ConnectionOptions): Promise<Bramble> => clientOf(requireNode(options))

/** The same of a network. */
export const connectNetwork = async (options: ConnectionOptions): Promise<Bramble> =>
  clientOf(requireNode(options, 'network'))

export const requireNode = (options: ConnectionOptions, kind: Kind = 'node'): NodeAddress => {
  const config = readConfig()
  const address = findNode(options, config, kind)
  if (address !== undefined) return address
  throw new ExitError(
    EXIT.failure,
    `no ${kind} runs on ${dataDirectory(config)}`,
    kind === 'node'
      ? '`bramble up` starts one; `--url` or BRAMBLE_URL names another.'
      : '`bramble up --nodes 3` or `bramble coordinator` starts one; `--url` or BRAMBLE_URL names another.',
  )
}
