import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { loadIdentity } from './index.ts'

let directory: string
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'bramble-identity-'))
})
afterAll(() => rm(directory, { recursive: true }))

test('a key is made once, for its owner alone', async () => {
  const file = join(directory, 'new/folder/identity.json')
  const identity = await loadIdentity(file)
  expect((await stat(file)).mode & 0o777).toBe(0o600)
  expect(await loadIdentity(file)).toMatchObject({ id: identity.id, publicKey: identity.publicKey })
  expect(await readdir(join(directory, 'new/folder'))).toEqual(['identity.json'])
})

test('of several that make it at once, all have the same', async () => {
  const file = join(directory, 'race.json')
  const identities = await Promise.all(Array.from({ length: 8 }, () => loadIdentity(file)))
  expect(new Set(identities.map(({ id }) => id)).size).toBe(1)
})

test('a key that others may read is refused', async () => {
  const file = join(directory, 'open.json')
  await loadIdentity(file)
  for (const mode of [0o644, 0o640, 0o604]) {
    await chmod(file, mode)
    const refused = { code: 'conflict', detail: expect.stringContaining('chmod 600') }
    await expect(loadIdentity(file)).rejects.toMatchObject(refused)
  }
})

test('what is no key file is refused, is left as it is, and its text is not told', async () => {
  const good = join(directory, 'good.json')
  await loadIdentity(good)
  const { node, secretKey } = JSON.parse(await readFile(good, 'utf8'))
  const wrong = [
    '',
    'secret',
    '{}',
    JSON.stringify({ version: 2, node, secretKey }),
    JSON.stringify({ version: 1, node, secretKey: secretKey.slice(0, -2) }),
    JSON.stringify({ version: 1, node: `0x${'00'.repeat(20)}`, secretKey }),
    JSON.stringify({ version: 1, node, secretKey: `0x${'00'.repeat(32)}` }),
    ' '.repeat(10_000),
  ]
  for (const text of wrong) {
    const file = join(directory, 'wrong.json')
    await writeFile(file, text, { mode: 0o600 })
    const error = await loadIdentity(file).then(
      () => undefined,
      (thrown) => thrown,
    )
    expect(error, text).toMatchObject({ code: 'conflict' })
    expect(`${error.message} ${error.cause}`).not.toContain(secretKey.slice(2, 40))
    expect(await readFile(file, 'utf8')).toBe(text)
  }
})
