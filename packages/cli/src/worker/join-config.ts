import { readFileSync } from 'node:fs'
import { type Labels, nodeRegistrationSchema, nodeReportSchema, parse } from '@bramble/protocol'
import type { Command } from 'commander'
import { z } from 'zod'
import { EXIT, ExitError } from '../exit.ts'
import { collectLabels, parseDuration, parseInteger } from '../parse-value.ts'

/** How a node joins a network, as commander gives it. */
export interface JoinOptions {
  readonly token?: string
  readonly owner?: string
  readonly key?: string
  readonly name?: string
  readonly slots?: number
  readonly label?: Record<string, string>
  readonly region?: string
  readonly advertiseUrl?: string
  readonly transport?: string
  readonly drainGrace?: number
}

export interface JoinConfig {
  readonly url: string
  readonly token: string | undefined
  readonly name: string | undefined
  readonly slots: number | undefined
  readonly labels: Labels | undefined
  readonly region: string | undefined
  readonly gatewayUrl: string | undefined
  readonly transport: 'stream' | 'poll' | undefined
  readonly drainGraceMs: number
}

const DRAIN_GRACE_MS = 300_000

export const addJoinOptions = (command: Command): Command =>
  command
    .option('--token <token>', 'of an invite, for the first time (BRAMBLE_JOIN_TOKEN, or a file: …_FILE)')
    .option('--owner <name>', 'whose node it is; with the admin key of the network, instead of a token')
    .option('--key <key>', 'the admin key for --owner (BRAMBLE_API_KEY)')
    .option('--name <name>', 'what the node is called')
    .option('--slots <number>', 'executions at once (default: two a processor)', parseInteger)
    .option('--label <name[=value]>', 'for jobs that ask for it; may be given many times', collectLabels)
    .option('--region <name>', 'where it is')
    .option('--advertise-url <url>', 'where users reach its gateway (BRAMBLE_ADVERTISE_URL)')
    .option('--transport <how>', 'stream, or poll where no WebSocket passes (default: stream)')
    .option('--drain-grace <time>', 'what runs may take after a stop was asked for (default: 5m)', parseDuration)

const httpUrl = z.url({ protocol: /^https?$/, error: 'is not an http:// or https:// URL' })

const joinSchema = z.strictObject({
  url: httpUrl,
  token: nodeRegistrationSchema.shape.token,
  name: nodeRegistrationSchema.shape.name,
  slots: nodeReportSchema.shape.slots.optional(),
  labels: nodeReportSchema.shape.labels.optional(),
  region: nodeReportSchema.shape.region,
  gatewayUrl: httpUrl.optional(),
  transport: z.enum(['stream', 'poll']).optional(),
})

type Environment = Readonly<Record<string, string | undefined>>

/** An argument is seen by all of this host, a file or a variable is not. */
const tokenIn = (options: JoinOptions, env: Environment): string | undefined => {
  const file = env.BRAMBLE_JOIN_TOKEN_FILE
  const text = options.token ?? env.BRAMBLE_JOIN_TOKEN ?? (file ? readToken(file) : undefined)
  return text?.trim() || undefined
}

const readToken = (file: string): string => {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new ExitError(EXIT.failure, `BRAMBLE_JOIN_TOKEN_FILE: ${(error as Error).message}`)
  }
}

/** Throws `invalid_request` that names the field, for a value that cannot be. */
export const readJoinConfig = (url: string, options: JoinOptions, env: Environment = process.env): JoinConfig => {
  const given = parse(joinSchema, {
    url,
    token: tokenIn(options, env),
    name: options.name,
    slots: options.slots,
    labels: options.label,
    region: options.region,
    gatewayUrl: options.advertiseUrl ?? (env.BRAMBLE_ADVERTISE_URL || undefined),
    transport: options.transport,
  })
  const { token, name, slots, labels, region, gatewayUrl, transport } = given
  const drainGraceMs = options.drainGrace ?? DRAIN_GRACE_MS
  return { url: given.url, token, name, slots, labels, region, gatewayUrl, transport, drainGraceMs }
}
