import type { Command } from 'commander'

/** As commander gives them. */
export interface NodeOptions {
  readonly port?: string
  readonly host?: string
  readonly sshPort?: string
  readonly domain?: string
  readonly dataDir?: string
  readonly runtime?: string
  readonly logLevel?: string
  readonly objectStore?: string
  readonly storeMaxGb?: string
  readonly isolation: boolean
  readonly setup: boolean
  readonly json: boolean
}

/** The options of every command that runs a node in the foreground. */
export const addNodeOptions = (command: Command): Command =>
  command
    .option('-p, --port <number>', 'port to listen on; 0 takes a free one (default 8080, BRAMBLE_PORT)')
    .option('--host <address>', 'address to listen on (default 127.0.0.1, BRAMBLE_HOST)')
    .option('--ssh-port <number>', 'port of SSH; 0 takes a free one, `off` is none (default 2222, BRAMBLE_SSH_PORT)')
    .option('--domain <name>', '<port>-<instance>.<name> leads to a port (default localhost, BRAMBLE_DOMAIN)')
    .option('--runtime <name>', 'auto, oci or docker (default auto, BRAMBLE_RUNTIME)')
    .option('--data-dir <path>', 'where the node keeps its data (BRAMBLE_DATA_DIR)')
    .option('--log-level <level>', 'debug, info, warn, error or silent (default info, BRAMBLE_LOG_LEVEL)')
    .option('--object-store <url>', 's3://bucket/prefix?endpoint=…: blobs are there too (BRAMBLE_OBJECT_STORE_URL)')
    .option('--store-max-gb <number>', 'what blobs may take on this host (BRAMBLE_STORE_MAX_GB)')
    .option('--no-isolation', 'run commands as plain processes of this host: for your own code only')
    .option('--no-setup', 'take the host as it is')
