// Writes the vectors that every implementation of keys, receipts and hashes is tried on: `node scripts/write-vectors.ts`.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { vectors } from './docs/vectors.ts'

const directory = join(import.meta.dirname, '../packages/identity/vectors')
mkdirSync(directory, { recursive: true })
for (const [name, value] of Object.entries(await vectors()))
  writeFileSync(join(directory, `${name}.json`), `${JSON.stringify(value, null, 2)}\n`)
console.log(`wrote ${directory}`)
