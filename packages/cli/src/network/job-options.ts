import { readFile } from 'node:fs/promises'
import type { Bramble, JobRequestInput } from '@bramble/sdk'
import type { Command } from 'commander'
import { defined } from '../defined.ts'
import { EXIT, ExitError } from '../exit.ts'
import { collect, collectPairs, parseDuration, parseInteger, parseNumber } from '../parse-value.ts'
import { addCommandOptions, type SpecOptions, specOf } from '../run/run-options.ts'
import { addSandboxOptions } from '../sandbox-options.ts'
import { ofNetwork } from './network-call.ts'

/** The options of `bramble submit` that describe the job. */
export interface JobOptions extends SpecOptions {
  readonly name?: string
  readonly description?: string
  readonly redundancy?: number
  readonly consensus?: number
  readonly policy?: string
  readonly confidence?: number
  readonly strategy?: string
  readonly deadline?: number | string
  readonly priority?: number
  readonly credits?: number
  readonly secretEnv?: Record<string, string>
  readonly secretFile?: string[]
  readonly output?: string[]
  readonly gpus?: number
  readonly isolation?: string
  readonly region?: string[]
  readonly nodeLabel?: Record<string, string>
  readonly share?: string[]
  readonly determinism?: string
}

/** `10m` from now, or a time as RFC 3339 writes it. */
const parseDeadline = (text: string): number | string =>
  /^\d{4}-/.test(text) && !Number.isNaN(Date.parse(text)) ? new Date(text).toISOString() : parseDuration(text)

/** `NAME=VALUE`; a name alone takes its value from the environment, where no list of processes shows it. */
const collectSecrets = (text: string, before: Record<string, string> = {}): Record<string, string> =>
  text.includes('=') ? collectPairs(text, before) : { ...before, [text]: '' }

export const addJobOptions = (command: Command): Command =>
  addCommandOptions(addSandboxOptions(command))
    .option('-n, --redundancy <number>', 'how many nodes may be asked at once, and are paid (default: 3)', parseInteger)
    .option('-k, --consensus <number>', 'how many of them must agree (default: 2)', parseInteger)
    .option(
      '--policy <policy>',
      'quorum: k agree (default); fast: a proven node alone, audited; paranoid: until credible',
    )
    .option('--confidence <share>', 'of paranoid: how sure the verdict must be (default: 0.99)', parseNumber)
    .option('--strategy <strategy>', 'lazy: k first, one more where they disagree (default); eager: n at once')
    .option('--deadline <time>', 'when it fails, whatever has run: 10m from now, or 2026-01-31T12:00Z', parseDeadline)
    .option('--priority <number>', '0 to 100, higher first (default: 50)', parseInteger)
    .option('--credits <number>', 'for each execution that agrees (default: 1)', parseInteger)
    .option('--name <name>', 'a name to find it by')
    .option('--description <text>', 'what it is for')
    .option('--output <path>', 'a file of the sandbox that belongs to the result; may be given many times', collect)
    .option(
      '--secret-env <name[=value]>',
      'a variable that only its nodes may read; a name alone is taken from here',
      collectSecrets,
    )
    .option('--secret-file <path[:path]>', 'a file that only its nodes may read', collect)
    .option('--gpus <number>', 'GPUs', parseInteger)
    .option('--isolation <kind>', 'container, gvisor or vm, at least')
    .option('--region <name>', 'only nodes there; may be given many times', collect)
    .option('--node-label <name=value>', 'only nodes with this label; may be given many times', collectPairs)
    .option('--share <what>', 'executions may share: owner, machine or subnet; may be given many times', collect)
    .option(
      '--determinism <how>',
      'profile: fixed time zone, locale, hash seeds (default); check: also try it twice; off',
    )

const DISTINCT = ['owner', 'machine', 'subnet'] as const

const placementOf = ({ region, nodeLabel, share }: JobOptions): object | undefined => {
  const unknown = share?.find((what) => !DISTINCT.some((known) => known === what))
  if (unknown !== undefined)
    throw new ExitError(EXIT.failure, `--share ${unknown}: executions may share ${DISTINCT.join(', ')}`)
  const distinct = share && DISTINCT.filter((what) => !share.includes(what))
  const placement = defined({ regions: region, nodeLabels: nodeLabel, distinct })
  return Object.keys(placement).length > 0 ? placement : undefined
}

const secretEnvOf = (given: Record<string, string>, env: NodeJS.ProcessEnv): Record<string, string> =>
  Object.fromEntries(
    Object.entries(given).map(([name, value]) => {
      const found = value === '' ? env[name] : value
      if (found === undefined)
        throw new ExitError(EXIT.failure, `--secret-env ${name}: it is not in the environment here`)
      return [name, found]
    }),
  )

const secretFilesOf = async (given: readonly string[]): Promise<Record<string, Uint8Array>> => {
  const files: Record<string, Uint8Array> = {}
  for (const text of given) {
    const colon = text.lastIndexOf(':')
    const [here, there] = colon > 0 ? [text.slice(0, colon), text.slice(colon + 1)] : [text, text.replace(/^.*\//, '')]
    files[there] = await readFile(here).catch((cause: Error) => {
      throw new ExitError(EXIT.failure, `--secret-file ${text}: ${cause.message}`)
    })
  }
  return files
}

/** What is sealed, to the key of the network that it is submitted to. */
const sealedOf = async (bramble: Bramble, options: JobOptions, env: NodeJS.ProcessEnv) => {
  const { secretEnv, secretFile } = options
  if (secretEnv === undefined && secretFile === undefined) return undefined
  const [{ sealInputs }, { publicKey }] = await Promise.all([
    import('@bramble/sdk'),
    ofNetwork(bramble.network.stats()),
  ])
  return sealInputs(publicKey, {
    ...(secretEnv !== undefined && { env: secretEnvOf(secretEnv, env) }),
    ...(secretFile !== undefined && { files: await secretFilesOf(secretFile) }),
  })
}

/** The job that the words and options ask for; reads the files they name, and standard input if asked to. */
export const jobOf = async (
  bramble: Bramble,
  words: readonly string[],
  options: JobOptions,
  env: NodeJS.ProcessEnv = process.env,
): Promise<JobRequestInput> => {
  const { name, description, redundancy, consensus, policy, confidence, strategy, priority, determinism } = options
  const { deadline, credits, gpus, isolation, output } = options
  const spec = await specOf(words, options)
  const sealedInputs = await sealedOf(bramble, options, env)
  const request = {
    ...spec,
    ...(gpus !== undefined && { resources: { ...spec.resources, gpus } }),
    ...defined({ name, description, redundancy, consensus, policy, confidence, strategy, priority, determinism }),
    ...defined({ isolation, outputs: output, creditsRequired: credits, placement: placementOf(options), sealedInputs }),
    ...(deadline !== undefined && {
      deadline: typeof deadline === 'string' ? deadline : new Date(Date.now() + deadline).toISOString(),
    }),
  }
  // Enumerations arrive as text: the coordinator parses the job and names the field that cannot be.
  return request as JobRequestInput
}
