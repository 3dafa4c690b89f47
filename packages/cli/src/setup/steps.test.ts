import { mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { HOST_PARTS, installCommand } from './host-parts.ts'
import { isStaticElf } from './is-static-elf.ts'
import { findCommand, runCommand } from './run-command.ts'
import { makeStep } from './steps.ts'

let root: string
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'bramble-steps-'))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

const signal = new AbortController().signal
const makefile = (recipe: string): void =>
  writeFileSync(join(root, 'Makefile'), `build/out: source\n\t@mkdir -p build\n\t${recipe}\n`)

test('a program is built once, and again when its source is newer', async (context) => {
  context.skip(findCommand('make') === undefined, 'make is not installed')
  const step = makeStep('Program', root, '.')
  makefile('cp source build/out')
  writeFileSync(join(root, 'source'), 'a')
  await (await step.plan())?.run(() => {}, signal)
  expect(await step.plan()).toBeUndefined()
  const later = Date.now() / 1000 + 60
  utimesSync(join(root, 'source'), later, later)
  expect(await step.plan()).toMatchObject({ does: 'make -C .' })
})

test('a build that fails says what the compiler said', async (context) => {
  context.skip(findCommand('make') === undefined, 'make is not installed')
  makefile('@echo syntax error >&2; false')
  writeFileSync(join(root, 'source'), '')
  const plan = await makeStep('Program', root, '.').plan()
  await expect(plan?.run(() => {}, signal)).rejects.toThrow('syntax error')
})

test('every part has a name for apt, and the command to install is one line', () => {
  expect(HOST_PARTS.filter(({ packages }) => packages.apt === undefined)).toEqual([])
  const parts = HOST_PARTS.filter(({ name }) => ['libc6-dev', 'xz-utils'].includes(name))
  expect(installCommand('apt', parts)).toBe('apt-get install libc6-dev xz-utils')
  expect(installCommand('dnf', parts)).toBe('dnf install glibc-static xz')
  expect(installCommand('apk', parts)).toBe('apk add musl-dev xz')
})

test('a program with a loader, a text and nothing at all are not static', () => {
  writeFileSync(join(root, 'text'), '#!/bin/sh\n')
  for (const path of [process.execPath, join(root, 'text'), join(root, 'nothing'), root])
    expect(isStaticElf(path)).toBe(false)
})

test('what the C compiler links statically is static', async (context) => {
  context.skip(findCommand('cc') === undefined, 'no C compiler is installed')
  writeFileSync(join(root, 'a.c'), 'int main(void) { return 0; }\n')
  expect(await runCommand(['cc', '-static', '-o', join(root, 'a'), join(root, 'a.c')])).toMatchObject({ code: 0 })
  expect(isStaticElf(join(root, 'a'))).toBe(true)
})

test('a command of the host gives its lines, its code, and its end by an abort', async () => {
  expect(await runCommand(['sh', '-c', 'echo a; echo b >&2; exit 3'])).toMatchObject({ code: 3 })
  expect(await runCommand(['/nonexistent'])).toMatchObject({ code: 127 })
  const seen: string[] = []
  await runCommand(['sh', '-c', 'echo pm:x:50:y >&3'], { onStatusLine: (line) => seen.push(line) })
  expect(seen).toEqual(['pm:x:50:y'])
  const controller = new AbortController()
  const running = runCommand(['sh', '-c', 'echo up; exec sleep 600'], {
    signal: controller.signal,
    onLine: () => controller.abort(new Error('enough')),
  })
  await expect(running).rejects.toThrow('enough')
})
