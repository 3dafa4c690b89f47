// Writes the documents that are made from code: `node scripts/write-docs.ts [errors|limits|verification]...`, all by default.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { errorsDocument } from './docs/errors.ts'
import { limitsDocument } from './docs/limits.ts'
import { verificationDocument } from './docs/verification.ts'

const DOCUMENTS: Record<string, () => string> = {
  errors: errorsDocument,
  limits: limitsDocument,
  verification: verificationDocument,
}

const asked = process.argv.slice(2)
for (const name of asked.length > 0 ? asked : Object.keys(DOCUMENTS)) {
  const make = DOCUMENTS[name]
  if (make === undefined) throw new Error(`no document ${name}: one of ${Object.keys(DOCUMENTS).join(', ')}`)
  const file = join('docs', `${name}.md`)
  writeFileSync(join(import.meta.dirname, '..', file), make())
  console.log(`wrote ${file}`)
}
