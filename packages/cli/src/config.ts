import { homedir } from 'node:os'

/**
 * Everything the CLI reads from the environment, read here and nowhere else.
 */
export interface CliConfig {
  /** `BRAMBLE_URL`: the node to talk to. */
  readonly url: string | undefined
  /** `BRAMBLE_API_KEY`: the key to show it. */
  readonly apiKey: string | undefined
  /** `BRAMBLE_DATA_DIR`: where a local node keeps its data. */
  readonly dataDirectory: string | undefined
  /** `NO_COLOR` (no-color.org) is set and not empty. */
  readonly noColor: boolean
  /** `TERM=dumb`: a terminal that can neither colour nor move its cursor. */
  readonly dumbTerminal: boolean
  readonly home: string
  readonly isRoot: boolean
}

const text = (value: string | undefined): string | undefined =>
  value === undefined || value === '' ? undefined : value

export const readConfig = (env: Record<string, string | undefined> = process.env): CliConfig => ({
  url: text(env.BRAMBLE_URL),
  apiKey: text(env.BRAMBLE_API_KEY),
  dataDirectory: text(env.BRAMBLE_DATA_DIR),
  noColor: text(env.NO_COLOR) !== undefined,
  dumbTerminal: env.TERM === 'dumb',
  home: text(env.HOME) ?? homedir(),
  isRoot: process.getuid?.() === 0,
})
