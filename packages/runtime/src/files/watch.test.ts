import { execFile, spawn } from 'node:child_process'
import { constants } from 'node:fs'
import { mkdir, mkdtemp, open, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Agent } from '../agent/agent.ts'
import { buildAgent, type SpawnedAgent, spawnAgent } from '../agent/testing/spawn-agent.ts'
import type { FileChange } from './sandbox-files.ts'
import { type WatchOptions, watchFiles } from './watch.ts'

let spawned: SpawnedAgent
let agent: Agent
let tree: string
beforeAll(async () => {
  spawned = await spawnAgent()
  agent = await spawned.connect()
})
afterAll(async () => {
  await agent.close()
  await spawned[Symbol.asyncDispose]()
})
beforeEach(async () => {
  tree = await mkdtemp(join(tmpdir(), 'bramble-watch-'))
})
afterEach(() => rm(tree, { recursive: true, force: true }))

/** A change in one line, its paths relative to the tree. */
const lineOf = (change: FileChange): string => {
  const name = (path: Buffer) => path.toString().replace(`${tree}/`, '')
  if (change.event === 'ready') return 'ready'
  if (change.event === 'overflow') return 'overflow'
  const to = change.event === 'move' ? ` ${name(change.to)}` : ''
  return `${change.event} ${name(change.path)}${to}${change.isDirectory ? '/' : ''}`
}

interface Watch extends AsyncDisposable {
  /** Everything up to the first change that is one of `last`, itself included. */
  until(...last: string[]): Promise<string[]>
  readonly end: () => Promise<string[]>
}

const begin = async (path: string, options: WatchOptions = {}): Promise<Watch> => {
  const changes = watchFiles(agent, path, { agentPath: spawned.binary, ...options })
  const until = async (...last: string[]) => {
    const lines: string[] = []
    for (;;) {
      const { done, value } = await changes.next()
      if (done) return lines
      const line = lineOf(value)
      lines.push(line)
      if (last.includes(line)) return lines
    }
  }
  expect(await until('ready')).toEqual(['ready'])
  return { until, end: () => until(), [Symbol.asyncDispose]: async () => void (await changes.return()) }
}

describe('a tree', () => {
  test('files and directories are created, modified, moved and deleted', async () => {
    await using watch = await begin(tree, { recursive: true })
    await writeFile(join(tree, 'a'), 'one')
    await mkdir(join(tree, 'd'))
    expect(await watch.until('create d/')).toEqual(['create a', 'modify a', 'create d/'])
    await rename(join(tree, 'a'), join(tree, 'd/b'))
    await rename(join(tree, 'd'), join(tree, 'e'))
    await writeFile(join(tree, 'e/c'), '')
    expect(await watch.until('create e/c')).toEqual(['move a d/b', 'move d e/', 'create e/c'])
    await rm(join(tree, 'e'), { recursive: true })
    const lines = await watch.until('delete e/')
    expect(lines.filter((line) => line.startsWith('delete')).sort()).toEqual(['delete e/', 'delete e/b', 'delete e/c'])
  })

  test('what crosses its border is created or deleted, with all that is in it', async () => {
    const outside = await mkdtemp(join(tmpdir(), 'bramble-watch-'))
    await mkdir(join(outside, 'd/deep'), { recursive: true })
    await writeFile(join(outside, 'd/deep/f'), '')
    await using watch = await begin(tree, { recursive: true })
    await rename(join(outside, 'd'), join(tree, 'd'))
    expect(await watch.until('create d/deep/f')).toEqual(['create d/', 'create d/deep/', 'create d/deep/f'])
    await rename(join(tree, 'd/deep/f'), join(outside, 'f'))
    await rename(join(tree, 'd'), join(outside, 'gone'))
    // Nobody watches there any more.
    await writeFile(join(outside, 'gone/deep/g'), '')
    await writeFile(join(tree, 'last'), '')
    expect(await watch.until('create last')).toEqual(['delete d/deep/f', 'delete d/', 'create last'])
    await rm(outside, { recursive: true })
  })

  test('a directory that fills while it appears is told of once and whole', async () => {
    await using watch = await begin(tree, { recursive: true })
    const script = 'for i in $(seq 1 200); do mkdir -p d$i/x/y; echo > d$i/x/y/f; echo > d$i/x/g; done; touch end'
    await promisify(execFile)('sh', ['-c', script], { cwd: tree })
    const created = (await watch.until('create end')).filter((line) => line.startsWith('create'))
    const wanted = Array.from({ length: 200 }, (_, n) => `d${n + 1}`)
      .flatMap((d) => [`${d}/`, `${d}/x/`, `${d}/x/y/`, `${d}/x/y/f`, `${d}/x/g`])
      .concat('end')
    expect(created.sort()).toEqual(wanted.map((name) => `create ${name}`).sort())
  })

  test('many writes of one file are few changes, and the last is told', async () => {
    await using watch = await begin(tree)
    const file = await open(join(tree, 'log'), 'w')
    for (let n = 0; n < 5000; n++) await file.write('x')
    await watch.until('modify log')
    await file.write('y')
    // Still open, so that only the passing of time can tell.
    await watch.until('modify log')
    await file.close()
    for (let n = 0; n < 300; n++) await writeFile(join(tree, 'log'), String(n))
    await writeFile(join(tree, 'end'), '')
    const lines = [...(await watch.until('create end')), ...(await watch.until('modify log'))]
    expect(lines.filter((line) => line === 'modify log').length).toBeLessThan(150)
  })

  test('permissions and times are modifications, links are not followed, names are bytes', async () => {
    await mkdir(join(tree, 'real'))
    await symlink('real', join(tree, 'link'))
    await symlink('..', join(tree, 'real/up'))
    await using watch = await begin(tree, { recursive: true })
    await promisify(execFile)('sh', ['-c', "chmod 700 real; touch link/f; touch $(printf 'n\\377')"], { cwd: tree })
    const lines = await watch.until('modify n\ufffd')
    expect(lines).toEqual(['modify real/', 'create real/f', 'modify real/f', 'create n\ufffd', 'modify n\ufffd'])
  })

  test('a file without a name is told of once it has one', async () => {
    await using watch = await begin(tree)
    // O_TMPFILE (open(2)), which Node has no constant for.
    const file = await open(tree, constants.O_RDWR | 0o20000000 | constants.O_DIRECTORY)
    await file.chmod(0o640)
    await writeFile(join(tree, '#1'), '')
    await file.close()
    expect(await watch.until('create #1')).toEqual(['create #1'])
    await writeFile(join(tree, '#1'), 'x')
    expect(await watch.until('modify #1')).toEqual(['modify #1'])
  })

  test('one level only, unless asked', async () => {
    await mkdir(join(tree, 'd'))
    await using watch = await begin(tree)
    await writeFile(join(tree, 'd/hidden'), '')
    await mkdir(join(tree, 'e/f'), { recursive: true })
    await writeFile(join(tree, 'end'), '')
    expect(await watch.until('create end')).toEqual(['create e/', 'create end'])
  })

  test('the end of the tree ends the watch, also where somebody works in it, or its parent moves', async () => {
    await mkdir(join(tree, 'a/b'), { recursive: true })
    await using watch = await begin(join(tree, 'a/b'), { recursive: true })
    const worker = spawn('sleep', ['100000'], { cwd: join(tree, 'a/b') })
    await rm(join(tree, 'a'), { recursive: true })
    expect(await watch.end()).toEqual(['delete a/b/'])
    worker.kill('SIGKILL')
    await mkdir(join(tree, 'c/d'), { recursive: true })
    await using moved = await begin(join(tree, 'c/d'))
    await rename(join(tree, 'c'), join(tree, 'e'))
    expect(await moved.end()).toEqual(['delete c/d/'])
  })
})

describe('a file', () => {
  test('is watched by its name, over replacements', async () => {
    await writeFile(join(tree, 'f'), '')
    await using watch = await begin(join(tree, 'f'))
    await writeFile(join(tree, 'f'), 'x')
    await watch.until('modify f')
    await writeFile(join(tree, 'other'), 'x')
    await rename(join(tree, 'other'), join(tree, 'f'))
    expect((await watch.until('create f')).filter((line) => line !== 'modify f')).toEqual(['create f'])
    await rm(join(tree, 'f'))
    expect((await watch.until('delete f')).filter((line) => line !== 'modify f')).toEqual(['delete f'])
    await rm(tree, { recursive: true })
    expect(await watch.end()).toEqual([])
  })
})

describe('bounds', () => {
  test('directories past the limit are said, and watched once there is room', async () => {
    for (let n = 0; n < 20; n++) await mkdir(join(tree, `d${n}`))
    await using watch = await begin(tree, { recursive: true, maxDirectories: 10 })
    expect(await watch.until('overflow')).toEqual(['overflow'])
    for (let n = 0; n < 20; n++) await rm(join(tree, `d${n}`), { recursive: true })
    // What is made while it looks at everything anew is part of what an overflow says was missed: then another is made.
    let made = 0
    for (let last = 'overflow'; last === 'overflow'; ) {
      await mkdir(join(tree, `new${++made}`))
      last = (await watch.until('overflow', `create new${made}/`)).at(-1) ?? ''
    }
    await writeFile(join(tree, `new${made}/f`), '')
    expect(await watch.until(`create new${made}/f`)).toContain(`create new${made}/f`)
  })

  test('who does not read is told that something was missed, and then what is new', async () => {
    await using watch = await begin(tree, { recursive: true })
    const script = 'i=0; while [ $i -lt 60000 ]; do : > f$i; i=$((i+1)); done; rm -rf f*; mkdir d'
    // The pipe, the window and the kernel's queue are full long before this ends.
    await promisify(execFile)('sh', ['-c', script.replace('rm -rf f*', 'find . -type f -delete')], { cwd: tree })
    await watch.until('overflow')
    await writeFile(join(tree, 'd/f'), '')
    await watch.until('create d/f')
  })
})

describe('errors', () => {
  const first = (path: string | Uint8Array, options: WatchOptions = {}) =>
    watchFiles(agent, path, { agentPath: spawned.binary, ...options }).next()

  test('a path that is not there, or not allowed, or no path', async () => {
    await expect(first(join(tree, 'none'))).rejects.toMatchObject({ code: 'file_not_found' })
    await writeFile(join(tree, 'f'), '')
    await expect(first(join(tree, 'f/under'))).rejects.toMatchObject({ code: 'file_not_found' })
    await expect(first('')).rejects.toMatchObject({ code: 'invalid_request' })
    await expect(first('/a\0b')).rejects.toMatchObject({ code: 'invalid_request' })
    if (process.getuid?.() !== 0) return
    // The program may be in a directory that this user cannot see.
    const agentPath = join(tree, 'agent')
    await promisify(execFile)('sh', ['-c', `cp ${await buildAgent()} agent; mkdir -m 700 p; chmod 755 .`], {
      cwd: tree,
    })
    await expect(first(join(tree, 'p'), { user: 'nobody', agentPath })).rejects.toMatchObject({ code: 'file_refused' })
    await expect(first(join(tree, 'p/x'), { user: 'nobody', agentPath })).rejects.toMatchObject({
      code: 'file_refused',
    })
  })

  test('an abort throws its reason', async () => {
    const reason = new Error('enough')
    await expect(first(tree, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    const controller = new AbortController()
    const changes = watchFiles(agent, tree, { agentPath: spawned.binary, signal: controller.signal })
    await changes.next()
    const next = changes.next()
    controller.abort(reason)
    await expect(next).rejects.toBe(reason)
  })
})
