import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { expect, test } from 'vitest'
import { openPostgresServer } from './postgres-server.ts'
import { skipWithout } from './use-postgres.ts'

const PROGRAM = `
const { openPostgresServer } = await import(process.argv[1])
const server = await openPostgresServer()
process.stdout.write(('skip' in server ? server.skip : await server.newDatabase()) + '\\n')
setInterval(() => {}, 1000)
`

test('a PostgreSQL of a test ends with the process that started it, and leaves nothing', async (context) => {
  const child = spawn(process.execPath, [
    ...['--input-type=module', '-e', PROGRAM, new URL('postgres-server.ts', import.meta.url).href],
  ])
  const { value: said = '' } = await createInterface(child.stdout)[Symbol.asyncIterator]().next()
  child.kill('SIGKILL')
  await once(child, 'close')
  if (!said.startsWith('postgresql://')) return skipWithout(context, 'postgres', said)
  const directory = new URL(said).searchParams.get('host') ?? ''
  await expect.poll(() => existsSync(directory), { timeout: 20_000 }).toBe(false)
})

test('a PostgreSQL of a test closes twice', async (context) => {
  const server = await openPostgresServer()
  if ('skip' in server) return skipWithout(context, 'postgres', server.skip)
  await server.close()
  await server.close()
})
