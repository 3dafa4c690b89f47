import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterAll, expect, test } from 'vitest'

const MAIN = new URL('../main.ts', import.meta.url).pathname
const directory = mkdtempSync(join(tmpdir(), 'bramble-doctor-test-'))
afterAll(() => rmSync(directory, { recursive: true, force: true }))

const doctor = async (...args: string[]) => {
  const env = { ...process.env, BRAMBLE_DATA_DIR: directory, DOCKER_HOST: `unix://${join(directory, 'no.sock')}` }
  const child = spawn(process.execPath, [MAIN, 'doctor', ...args], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  const [stdout, [code]] = await Promise.all([text(child.stdout), once(child, 'close')])
  return { stdout, code }
}

test('every part is reported, what is missing comes with what to do, and the exit code tells of isolation', async () => {
  const { stdout, code } = await doctor('--json')
  const { isolates, parts } = JSON.parse(stdout)
  expect(code).toBe(isolates ? 0 : 1)
  const byName = Object.fromEntries(parts.map((part: { name: string }) => [part.name, part]))
  expect(byName.node).toMatchObject({ state: 'works', version: process.versions.node })
  expect(byName.images).toMatchObject({ state: 'missing', hint: 'bramble setup' })
  expect(byName.docker).toMatchObject({ state: 'fails', hint: expect.stringContaining('DOCKER_HOST') })
  for (const part of parts)
    expect(part).toMatchObject({ group: expect.any(String), detail: expect.stringMatching(/./) })
})

test('a person gets a table', async () => {
  const { stdout } = await doctor()
  expect(stdout).toMatch(/^ {2}✓ node +\d+\.\d+\.\d+ /m)
  expect(stdout).toMatch(/✗ images +missing: no images yet\n +bramble setup\n/)
})
