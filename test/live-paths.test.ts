import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import type { Instance } from '@bramble/protocol'
import { Bramble } from '@bramble/sdk'
import { downloadDirectory } from '@bramble/sdk/node'
import { type Header, pack } from 'tar-stream'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { openSshUser } from './live-ssh.ts'

const MAIN = fileURLToPath(new URL('../packages/cli/src/main.ts', import.meta.url))
const SECRET = `the host's ${process.pid}`

let node: LiveNode
let skip: string | undefined
let box: Instance
/** A directory of the host: what is in it is neither to be read nor written by way of a sandbox. */
let outside: string
let canary: string

beforeAll(async () => {
  const opened = await openLiveNode()
  if ('skip' in opened) {
    skip = opened.skip
    return
  }
  node = opened
  outside = await mkdtemp(join(tmpdir(), 'bramble-outside-'))
  canary = join(outside, 'canary')
  await writeFile(canary, SECRET)
  box = await node.start({})
})
afterAll(async () => {
  await rm(outside, { recursive: true, force: true })
  await node?.[Symbol.asyncDispose]()
})
beforeEach(({ skip: skipTest }) => {
  if (skip !== undefined) skipTest(skip)
})

const files = (): string => `/api/v1/instances/${box.id}/files`
const assertUnharmed = async (): Promise<void> => {
  expect(await readFile(canary, 'utf8')).toBe(SECRET)
  expect(await readdir(outside)).toEqual(['canary'])
}
const tarOf = async (entries: [Partial<Header> & { name: string }, string?][]): Promise<Buffer> => {
  const tar = pack()
  for (const [header, content] of entries) tar.entry(header as Header, content ?? '')
  tar.finalize()
  return await buffer(tar)
}

test('paths of the API lead to the sandbox’s own files, however they are written and whatever links are there', async () => {
  await node.sh(
    box.id,
    `mkdir /l; ln -s /proc/1/root /l/root; ln -s ${outside} /l/out; ln -s ../../../../../../../.. /l/up; ln -s /l/loop /l/loop; ln -s /etc/shadow /l/shadow`,
  )
  const ways = [
    canary,
    `/..${canary}`,
    `/%2e%2e/%2E%2e${canary}`,
    `/..%2f..%2f..${canary}`,
    `/%252e%252e${canary}`,
    `//${canary}`,
    `/etc/../..//.${canary}`,
    `/l/root${canary}`,
    `/l/out/canary`,
    `/l/up${canary}`,
    `/proc/1/root${canary}`,
    `/proc/self/root/proc/1/root${canary}`,
    `/proc/1/cwd${canary}`,
    `/l/loop`,
    `/l/shadow`,
  ]
  for (const way of ways) {
    const read = await node.ask('GET', files() + way)
    expect([404, 422], way).toContain(read.status)
    expect(read.text).not.toContain(SECRET)
    for (const query of [`stat=${way}`, `list=${way}`, `stat=${way}&followLinks=true`])
      expect((await node.ask('GET', `${files()}?${query}`)).text, way).not.toContain(SECRET)
    expect((await node.ask('GET', `/api/v1/instances/${box.id}/download?path=${way}`)).text, way).not.toContain(SECRET)
  }
  for (const way of ['/a%00b', `/${'x'.repeat(5000)}`, `/${'x/'.repeat(4000)}y`])
    expect((await node.ask('GET', files() + way)).status, way.slice(0, 20)).toBe(400)
  // Written to, they make files of the sandbox, or nothing.
  for (const way of ways) await node.ask('PUT', files() + way, { body: 'of the sandbox' })
  expect(await node.sh(box.id, `cat ${canary}`)).toBe('of the sandbox')
  await assertUnharmed()
  for (const way of ways) {
    await node.ask('POST', `${files()}?chmod=${way}&mode=0777`)
    await node.ask('POST', `${files()}?move=${way}&to=/tmp/moved`)
    await node.ask('DELETE', `${files()}${way}?recursive=true`)
  }
  await assertUnharmed()
})

describe('an archive that leads out of its directory', () => {
  const link = (name: string, linkname: string, type: 'symlink' | 'link' = 'symlink') => ({ name, type, linkname })
  test.for<[string, () => [Partial<Header> & { name: string }, string?][]]>([
    ['by ..', () => [[{ name: '../../escaped' }, 'evil']]],
    ['by an absolute name', () => [[{ name: '/escaped' }, 'evil']]],
    ['by a link and a file below it', () => [[link('out', '/')], [{ name: 'out/escaped' }, 'evil']]],
    ['by a link and a file in its place', () => [[link('out', '/escaped')], [{ name: 'out' }, 'evil']]],
    ['by a link to a link', () => [[link('a', '..')], [link('b', 'a/..')], [{ name: 'b/escaped' }, 'evil']]],
    ['by a hard link to what is outside', () => [[link('hard', '/etc/passwd', 'link')], [{ name: 'hard' }, 'evil']]],
    [
      'by a hard link through a link',
      () => [[link('out', '/etc')], [link('hard', 'out/passwd', 'link')], [{ name: 'hard' }, 'evil']],
    ],
    [
      'by a directory in the place of a link',
      () => [[link('out', '/')], [{ name: 'out', type: 'directory' }], [{ name: 'out/escaped' }, 'evil']],
    ],
  ])('%s writes nothing there, in the sandbox', async ([, entries]) => {
    await node.sh(box.id, 'rm -rf /in /escaped; mkdir /in; cp /etc/passwd /tmp/passwd')
    const body = await tarOf(entries())
    const headers = { 'content-type': 'application/x-tar' }
    await node.ask('POST', `/api/v1/instances/${box.id}/upload?path=/in`, { body, headers })
    expect(await node.sh(box.id, 'ls /escaped 2>/dev/null; cmp /etc/passwd /tmp/passwd; true')).toBe('')
  })

  /** A node that answers as it likes. */
  const hostileNode = async (archive: Buffer) => {
    const now = new Date().toISOString()
    const entry = { path: '/tree', type: 'directory', sizeBytes: 0, mode: 0o755, uid: 0, gid: 0, modifiedAt: now }
    const server = createServer((request, response) => {
      const { pathname = '', search = '' } = new URL(request.url ?? '', 'http://x')
      if (pathname.endsWith('/download')) return response.end(archive)
      const body = search.includes('stat=')
        ? entry
        : pathname.endsWith('/instances')
          ? { items: [box], nextCursor: null }
          : box
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify(body))
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const address = server.address()
    const port = typeof address === 'object' ? address?.port : 0
    return { url: `http://127.0.0.1:${port}`, [Symbol.dispose]: () => void server.close() }
  }
  const cp = (url: string, key: string, from: string, to: string): Promise<number> =>
    new Promise((resolve) => {
      const env = { ...process.env, BRAMBLE_URL: url, BRAMBLE_API_KEY: key }
      execFile(process.execPath, [MAIN, 'cp', from, to], { env }, (error) => resolve(error ? Number(error.code) : 0))
    })

  test('leaves nothing outside of where cp and downloadDirectory were told to put it', async () => {
    const attempts: [Partial<Header> & { name: string }, string?][][] = [
      [[{ name: '../canary' }, 'evil']],
      [[{ name: `${outside}/../${outside}/canary` }, 'evil']],
      [[link('out', outside)], [{ name: 'out/canary' }, 'evil']],
      [[link('out', canary)], [{ name: 'out' }, 'evil']],
      [[link('hard', canary, 'link')], [{ name: 'hard' }, 'evil']],
      [[{ name: 'here/canary' }, 'evil']],
    ]
    const base = await mkdtemp(join(outside, '..', 'bramble-target-'))
    try {
      for (const [index, entries] of attempts.entries()) {
        // Its first entry is harmless: that it comes shows that the others were tried.
        entries.unshift([{ name: 'fine' }, 'fine'])
        using hostile = await hostileNode(await tarOf(entries))
        for (const way of ['cp', 'sdk']) {
          const to = join(base, `${way}${index}`, 'to')
          await mkdir(to, { recursive: true })
          await symlink(outside, join(to, 'here'))
          if (way === 'cp') await cp(hostile.url, 'x', `${box.id}:/tree/.`, to)
          else
            await new Bramble({ url: hostile.url, apiKey: 'x' }).instances
              .get(box.id)
              .then((instance) => downloadDirectory(instance, '/tree', to))
              .catch(() => undefined)
          expect((await readdir(join(base, `${way}${index}`))).sort()).toEqual(['to'])
          expect(await readFile(join(to, 'fine'), 'utf8')).toBe('fine')
          await assertUnharmed()
        }
      }
      // And of a real sandbox, whose links lead to the host.
      await node.sh(box.id, `mkdir -p /tree; ln -s ${outside} /tree/out; ln -s ${canary} /tree/file; echo x > /tree/x`)
      const to = join(base, 'real')
      expect(await cp(node.url, node.key, `${box.id}:/tree`, to)).toBe(0)
      expect((await readdir(to)).sort()).toEqual(['file', 'out', 'x'])
      await node.sh(box.id, 'rm -rf /tree; mkdir -p /tree/out; echo evil > /tree/out/canary; echo evil > /tree/file')
      await cp(node.url, node.key, `${box.id}:/tree/.`, to)
      await assertUnharmed()
    } finally {
      await rm(base, { recursive: true, force: true })
    }
  })
})

test('SFTP reaches the sandbox’s own files alone', async () => {
  const user = await openSshUser(node.sshPort)
  await node.ask('POST', '/api/v1/ssh-keys', { json: { name: 'test', publicKey: user.publicKey } })
  await node.sh(box.id, `rm -rf ${outside} /s; mkdir /s; ln -s / /s/root; ln -s ${canary} /s/link; echo own > /s/own`)
  const got = join(user.folder, 'got')
  const login = `${box.id}@127.0.0.1`
  expect(await user.sftp(login, `get /s/own ${got}`)).toMatchObject({ code: 0 })
  expect(await readFile(got, 'utf8')).toBe('own\n')
  for (const path of [canary, `/s/root${canary}`, '/s/link', `/proc/1/root${canary}`, `../../..${canary}`]) {
    await rm(got, { force: true })
    expect(await user.sftp(login, `get ${path} ${got}`), path).toMatchObject({ code: 1 })
    await user.sftp(login, `-put ${user.folder}/key.pub ${path}\n-rm ${path}\n-rename /s/own ${path}`)
    await assertUnharmed()
  }
})
