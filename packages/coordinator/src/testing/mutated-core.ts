import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { Parts } from './job-scenarios.ts'

/** A fault put in on purpose: in one file of the core, one piece of text in the place of another. */
export interface Mutation {
  readonly file: string
  readonly from: string
  readonly to: string
}

const CORE = join(dirname(fileURLToPath(import.meta.url)), '../core')

/** The core's sources with that fault, loaded beside the real ones. */
export const loadMutatedCore = async ({ file, from, to }: Mutation): Promise<Parts & Disposable> => {
  const directory = mkdtempSync(join(tmpdir(), 'bramble-mutation-'))
  const protocol = import.meta.resolve('@bramble/protocol')
  for (const name of readdirSync(CORE)) {
    if (!name.endsWith('.ts') || name.endsWith('.test.ts')) continue
    let text = readFileSync(join(CORE, name), 'utf8')
    if (name === file) {
      if (text.split(from).length !== 2) throw new Error(`${file} has not exactly one ${JSON.stringify(from)}`)
      text = text.replace(from, () => to)
    }
    const script = stripTypeScriptTypes(text)
      .replaceAll(/(from '\.\/[a-z-]+)\.ts'/g, "$1.mjs'")
      .replaceAll(/from '@bramble\/protocol'/g, `from '${protocol}'`)
    writeFileSync(join(directory, name.replace(/\.ts$/, '.mjs')), script)
  }
  const load = (name: string) => import(/* @vite-ignore */ pathToFileURL(join(directory, name)).href)
  const [{ transition }, { standingsInUse }, views] = await Promise.all(
    ['transition.mjs', 'groups.mjs', 'views.mjs'].map(load),
  )
  return {
    ...views,
    transition,
    standingsInUse,
    [Symbol.dispose]: () => rmSync(directory, { recursive: true, force: true }),
  }
}
