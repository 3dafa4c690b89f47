import type { Command } from 'commander'
import { parseInteger, parseMegabytes, parseNumber } from './parse-value.ts'

/** Which sandbox: the same for a command of its own and for an instance. */
export const addSandboxOptions = (command: Command): Command =>
  command
    .option('--image <name>', 'the image, by name or digest (default: base)')
    .option('--cpus <number>', 'processors, also fractions', parseNumber)
    .option('--memory <size>', 'memory: 512 (MiB), 512m, 2g', parseMegabytes)
    .option('--disk <size>', 'what it may write: 512 (MiB), 512m, 2g', parseMegabytes)
    .option('--pids <number>', 'processes at once', parseInteger)
