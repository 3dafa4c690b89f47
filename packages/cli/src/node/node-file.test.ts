import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { nodeFile } from '../data-directory.ts'
import { isAlive, removeNodeFile, runningNode, startTicksOf, writeNodeFile } from './node-file.ts'

let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'bramble-node-file-'))
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

const record = { url: 'http://127.0.0.1:1', startedAt: '2026-01-01T00:00:00.000Z' }

test('a node that runs is found until it removes its file', () => {
  expect(runningNode(directory)).toBeUndefined()
  const written = writeNodeFile(directory, record)
  expect(runningNode(directory)).toEqual(written)
  expect(written).toMatchObject({ ...record, pid: process.pid })
  expect(statSync(nodeFile(directory)).mode & 0o777).toBe(0o600)
  removeNodeFile(directory)
  removeNodeFile(directory)
  expect(runningNode(directory)).toBeUndefined()
})

test('a pid that another process has now is not the node', () => {
  const startTicks = startTicksOf(process.pid)
  expect(isAlive({ pid: process.pid, startTicks })).toBe(true)
  expect(isAlive({ pid: process.pid, startTicks: (startTicks ?? 0) + 1 })).toBe(false)
  expect(isAlive({ pid: 2 ** 22 + 1, startTicks: null })).toBe(false)
  expect(isAlive({ pid: -1, startTicks: null })).toBe(false)
})

test('a file that is not ours is no node', () => {
  writeFileSync(nodeFile(directory), '{"url":')
  expect(runningNode(directory)).toBeUndefined()
})
