import { InvalidArgumentError } from 'commander'

/** Parsers of option values; each refuses what it cannot read, with the form that it can. */

const MS_OF_UNIT: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const MB_OF_UNIT: Record<string, number> = { '': 1, m: 1, mb: 1, mib: 1, g: 1024, gb: 1024, gib: 1024 }

/** `500ms`, `30s`, `5m`, `2h`, `7d`; a number alone is seconds. In milliseconds. */
export const parseDuration = (text: string): number => {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(text)
  const unit = MS_OF_UNIT[match?.[2] ?? 's']
  if (match === null || unit === undefined) throw new InvalidArgumentError('Not a time: 500ms, 30s, 5m, 2h, 7d.')
  return Math.round(Number(match[1]) * unit)
}

/** `512`, `512m`, `2g`. In MiB. */
export const parseMegabytes = (text: string): number => {
  const match = /^(\d+(?:\.\d+)?)([a-z]*)$/.exec(text.toLowerCase())
  const unit = MB_OF_UNIT[match?.[2] ?? '']
  if (match === null || unit === undefined) throw new InvalidArgumentError('Not a size: 512, 512m, 2g.')
  return Math.round(Number(match[1]) * unit)
}

export const parseNumber = (text: string): number => {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value) || value < 0) throw new InvalidArgumentError('Not a number.')
  return value
}

export const parseInteger = (text: string): number => {
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError('Not a whole number.')
  return Number(text)
}

/** For options given many times: `name=value`, collected. */
export const collectPairs = (text: string, before: Record<string, string> = {}): Record<string, string> => {
  const equals = text.indexOf('=')
  if (equals < 1) throw new InvalidArgumentError('Not NAME=VALUE.')
  return { ...before, [text.slice(0, equals)]: text.slice(equals + 1) }
}

/** As `collectPairs`; a name alone has an empty value. */
export const collectLabels = (text: string, before: Record<string, string> = {}): Record<string, string> =>
  text.includes('=') ? collectPairs(text, before) : { ...before, [text]: '' }

export const collect = (text: string, before: string[] = []): string[] => [...before, text]

export const parsePort = (text: string): number => {
  const port = Number(text)
  if (!/^\d{1,5}$/.test(text) || port < 1 || port > 65_535) throw new InvalidArgumentError('Not a port: 1 to 65535.')
  return port
}
