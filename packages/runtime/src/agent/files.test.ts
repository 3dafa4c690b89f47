import { mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Agent } from './agent.ts'
import { getFile, putFile } from './files.ts'
import { type SpawnedAgent, shell, spawnAgent } from './testing/spawn-agent.ts'

const isRoot = process.getuid?.() === 0

describe('files in and out, by the agent itself', () => {
  let spawned: SpawnedAgent
  let agent: Agent
  let folder: string
  let agentPath: string
  beforeAll(async () => {
    spawned = await spawnAgent()
    agent = await spawned.connect()
    folder = spawned.folder
    agentPath = spawned.binary
  })
  afterAll(async () => {
    await agent.close()
    await spawned[Symbol.asyncDispose]()
  })

  const put = (path: string, content: Uint8Array | AsyncIterable<Uint8Array>, mode = 0o644) =>
    putFile(agent, { path, mode, content, agentPath })
  const get = (path: string, maxBytes = 1000) => getFile(agent, { path, maxBytes, agentPath })

  it('writes a file with its mode and its parents, and reads it back', async () => {
    const path = join(folder, 'a/b/c.bin')
    const content = Buffer.from(Array.from({ length: 256 }, (_, i) => i))
    await put(path, content, 0o4750)
    expect(await readFile(path)).toEqual(content)
    expect((await stat(path)).mode & 0o7777).toBe(0o4750)
    expect(await get(path)).toEqual({ content })
    expect(await readdir(join(folder, 'a/b'))).toEqual(['c.bin'])
  })

  it('takes nothing, and much, and pieces', async () => {
    const path = join(folder, 'sizes')
    await put(path, new Uint8Array(0))
    expect(await get(path, 0)).toEqual({ content: Buffer.alloc(0) })
    const large = Buffer.alloc(5_000_000, 'abcdefg')
    await put(path, large)
    expect(await get(path, 5_000_000)).toEqual({ content: large })
    await put(
      path,
      (async function* () {
        yield Buffer.from('one ')
        yield Buffer.from('two')
      })(),
    )
    expect(await get(path)).toEqual({ content: Buffer.from('one two') })
  })

  it('replaces a symbolic link instead of following it', async () => {
    await writeFile(join(folder, 'target'), 'untouched')
    await symlink(join(folder, 'target'), join(folder, 'link'))
    await put(join(folder, 'link'), Buffer.from('new'))
    expect(await readFile(join(folder, 'target'), 'utf8')).toBe('untouched')
    expect(await readFile(join(folder, 'link'), 'utf8')).toBe('new')
  })

  it('is whole or not there at all', async () => {
    const path = join(folder, 'atomic/file')
    await put(path, Buffer.from('old'))
    const broken = put(
      path,
      (async function* () {
        yield Buffer.from('half')
        throw new Error('the source broke')
      })(),
    )
    await expect(broken).rejects.toThrow('the source broke')
    const controller = new AbortController()
    const aborted = putFile(agent, {
      path,
      mode: 0o644,
      agentPath,
      signal: controller.signal,
      content: (async function* () {
        yield Buffer.from('half')
        controller.abort(new Error('enough'))
        await delay(1)
        yield Buffer.from('more')
      })(),
    })
    await expect(aborted).rejects.toThrow('enough')
    expect(await readFile(path, 'utf8')).toBe('old')
  })

  it('says why a file cannot be written', async () => {
    await mkdir(join(folder, 'dir'))
    await writeFile(join(folder, 'plain'), '')
    const refused = { code: 'invalid_request' }
    await expect(put(join(folder, 'dir'), Buffer.from('x'))).rejects.toMatchObject(refused)
    await expect(put(`${folder}/dir/`, Buffer.from('x'))).rejects.toMatchObject(refused)
    await expect(put(join(folder, 'plain/under'), Buffer.from('x'))).rejects.toMatchObject(refused)
    await expect(put(`${folder}/${'n'.repeat(300)}`, Buffer.from('x'))).rejects.toMatchObject(refused)
    await expect(put('', Buffer.from('x'))).rejects.toMatchObject(refused)
    expect((await readdir(folder)).filter((name) => name.startsWith('.bramble'))).toEqual([])
    await expect(putFile(agent, { path: '/x', mode: 0o644, content: Buffer.from('x') })).rejects.toMatchObject({
      code: 'sandbox_failed',
    })
  })

  it.runIf(isRoot)('does it as the user', async () => {
    await shell(agent, `chmod 755 ${folder}; mkdir ${folder}/private; chmod 700 ${folder}/private`)
    const path = join(folder, 'private/file')
    const other = { path, agentPath, user: 'nobody' }
    await expect(putFile(agent, { ...other, mode: 0o600, content: Buffer.from('x') })).rejects.toMatchObject({
      detail: expect.stringContaining('Permission denied'),
    })
    await put(path, Buffer.from('x'))
    expect(await getFile(agent, { ...other, maxBytes: 10 })).toEqual({ error: 'unreadable' })
    await shell(agent, `mkdir -m 777 ${folder}/open`)
    await putFile(agent, { ...other, path: join(folder, 'open/mine'), mode: 0o600, content: Buffer.from('x') })
    expect((await stat(join(folder, 'open/mine'))).uid).toBe(65534)
  })

  it('says what is wrong with a file that cannot be read', async () => {
    await writeFile(join(folder, 'ten'), '0123456789')
    await shell(agent, `mkfifo ${folder}/fifo; ln -s ${folder}/loop ${folder}/loop`)
    expect(await get(join(folder, 'none'))).toEqual({ error: 'not_found' })
    expect(await get(join(folder, 'ten/under'))).toEqual({ error: 'not_found' })
    expect(await get(folder)).toEqual({ error: 'not_a_file' })
    expect(await get(join(folder, 'fifo'))).toEqual({ error: 'not_a_file' })
    expect(await get('/dev/zero')).toEqual({ error: 'not_a_file' })
    expect(await get(join(folder, 'agent.sock'))).toEqual({ error: 'not_a_file' })
    expect(await get(join(folder, 'loop'))).toEqual({ error: 'unreadable' })
    expect(await get(join(folder, 'ten'), 9)).toEqual({ error: 'too_large', sizeBytes: 10 })
    expect(await get('/proc/self/maps', 10)).toEqual({ error: 'too_large' })
  })

  it('takes a path that begins at the working directory', async () => {
    await putFile(agent, { path: 'rel/x', workdir: folder, mode: 0o644, content: Buffer.from('r'), agentPath })
    expect(await getFile(agent, { path: './rel/x', workdir: folder, maxBytes: 9, agentPath })).toEqual({
      content: Buffer.from('r'),
    })
  })
})
