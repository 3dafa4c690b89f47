import { join, resolve } from 'node:path'
import { type CliConfig, readConfig } from './config.ts'

/**
 * Where the local node keeps everything: `BRAMBLE_DATA_DIR`, else `/var/lib/bramble` as root, else
 * `~/.local/share/bramble`. Always an absolute path.
 */
export const dataDirectory = (config: CliConfig = readConfig()): string => {
  if (config.dataDirectory !== undefined) return resolve(config.dataDirectory)
  return config.isRoot ? '/var/lib/bramble' : join(config.home, '.local', 'share', 'bramble')
}

/** Where a coordinator of this host keeps everything, be it one by itself or that of `up --nodes`. */
export const networkDirectory = (directory: string): string => join(directory, 'network')

/** A running node says where it is: JSON `{url, pid}`, removed when it ends; check that `pid` lives before trusting it. */
export const nodeFile = (directory: string): string => join(directory, 'node.json')

/** The admin key that the node, or the coordinator, made at its first start: one line, readable by its owner only. */
export const adminKeyFile = (directory: string): string => join(directory, 'admin.key')
