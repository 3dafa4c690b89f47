import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'

/** Where the node of a data directory reaches its network, for `bramble worker status`. */
const fileSchema = z.object({ url: z.url() })

const fileOf = (dataDirectory: string): string => join(dataDirectory, 'worker.json')

export const writeWorkerFile = (dataDirectory: string, url: string): void =>
  writeFileSync(fileOf(dataDirectory), `${JSON.stringify({ url })}\n`, { mode: 0o600 })

/** Undefined where no node of this directory has joined a network. */
export const readWorkerFile = (dataDirectory: string): z.output<typeof fileSchema> | undefined => {
  try {
    return fileSchema.parse(JSON.parse(readFileSync(fileOf(dataDirectory), 'utf8')))
  } catch {
    return undefined
  }
}
