import { execFile } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { oci } from '@bramble/runtime'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type BrambleProcess, startBramble } from './network-process.ts'
import { canRunNode, type NodeProcess, startNodeProcess } from './node-process.ts'

const directory = fileURLToPath(new URL('../examples/', import.meta.url))

/** What each writes, sorted: what happens side by side has no order. */
const EXPECTED: Readonly<Record<string, readonly string[]>> = {
  'fork-and-merge.ts': [
    '1 merged by lines',
    'ONE two three four FIVE new.txt notes.txt',
    'conflict in work/notes.txt: content { from: 1, to: 1 }',
  ],
  'instance.ts': ['4', 'counting'],
  'live.ts': ['0 1', '0 TYPED HERE', '2', '3', 'create /tmp/done'],
  'network-quorum.ts': [
    '2 nodes signed this result',
    '93d4e5c77838e0aa5cb6647c385c810a7c2782bf769029e6c420052048ab22bb  -',
    'forged: result_differs',
  ],
  'training-checkpoint.ts': ['it did not begin anew', 'it went on'],
  'web-server.ts': ['hello', 'hello'],
}

describe('examples', () => {
  let skip: string | undefined
  let node: NodeProcess
  let network: BrambleProcess

  beforeAll(async () => {
    skip = await canRunNode(oci())
    if (skip !== undefined) return
    ;[node, network] = await Promise.all([startNodeProcess(), startBramble(['up', '--no-setup', '--nodes', '3'])])
  })
  afterAll(() => Promise.all([node?.[Symbol.asyncDispose](), network?.[Symbol.asyncDispose]()]))

  for (const name of readdirSync(directory).filter((name) => name.endsWith('.ts')))
    test(name, async ({ skip: skipTest }) => {
      if (skip !== undefined) skipTest(skip)
      const { url, apiKey } = name.startsWith('network-') ? network.ready : { url: node.url, apiKey: node.key }
      const env = { PATH: process.env.PATH, BRAMBLE_URL: String(url), BRAMBLE_API_KEY: String(apiKey) }
      const { stdout } = await promisify(execFile)(process.execPath, [directory + name], { env })
      expect(stdout.trimEnd().split('\n').toSorted()).toEqual(EXPECTED[name])
    })
})
