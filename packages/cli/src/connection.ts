import { readFileSync } from 'node:fs'
import type { Bramble } from '@bramble/sdk'
import type { Command } from 'commander'
import { type CliConfig, readConfig } from './config.ts'
import { adminKeyFile, dataDirectory } from './data-directory.ts'
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

export const addConnectionOptions = (command: Command): Command =>
  command
    .option('--url <url>', 'the node to talk to (BRAMBLE_URL; default: the one that runs on this host)')
    .option('--key <key>', 'the API key (BRAMBLE_API_KEY; default: the admin key of the node on this host)')

/**
 * Which node is meant: the one that is named, else the one that runs on this host's data directory; undefined where there
 * is neither. The admin key of this host is shown to no other node.
 */
export const findNode = (options: ConnectionOptions, config: CliConfig = readConfig()): NodeAddress | undefined => {
  const directory = dataDirectory(config)
  const running = runningNode(directory)
  const named = options.url ?? config.url
  const url = named ?? running?.url
  if (url === undefined) return undefined
  const local = running !== undefined && sameOrigin(url, running.url)
  const apiKey = options.key ?? config.apiKey ?? (local ? readKey(adminKeyFile(directory)) : undefined)
  return { url, apiKey, local, sshPort: local ? running.sshPort : undefined }
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

export const requireNode = (options: ConnectionOptions): NodeAddress => {
  const address = findNode(options)
  if (address !== undefined) return address
  throw new ExitError(
    EXIT.failure,
    `no node runs on ${dataDirectory()}`,
    '`bramble up` starts one; `--url` or BRAMBLE_URL names another.',
  )
}
