import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionSpecInput } from '@bramble/protocol'
import { makeTestImage, type TestImage } from '@bramble/runtime/testing'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, type TestContext, test } from 'vitest'
import { type InstanceNode, instanceSpec, openInstanceNode, removeAll, run } from '../instances/testing.ts'
import { spec } from '../testing.ts'
import type { Volumes } from './volumes.ts'

const ACME = { tenant: 'acme', keyId: 'key_acme' }
const OTHER = { tenant: 'other', keyId: 'key_other' }
const NPM = '/root/.npm/_cacache'

let directory = ''
let image: TestImage
let node: InstanceNode
let skip: string | undefined
let volumes: Volumes

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'bramble-volumes-'))
  image = await makeTestImage()
  const opened = await openInstanceNode(directory, image)
  if ('skip' in opened) skip = opened.skip
  else node = opened
})
beforeEach((context: TestContext) => {
  if (skip !== undefined) context.skip(skip)
  if (!node.engine.volumes) throw new Error('the runtime keeps no volumes')
  ;({ volumes } = node.engine)
})
afterEach(async () => {
  if (skip !== undefined) return
  await removeAll(node, [ACME.tenant, OTHER.tenant])
  for (const { tenant } of [ACME, OTHER])
    for (const { name, kind } of await volumes.list(tenant))
      await (kind === 'volume' ? volumes.remove(tenant, name) : volumes.clearCache(tenant, name as 'npm'))
})
afterAll(async () => {
  if (skip === undefined) await node.close()
  await image?.[Symbol.asyncDispose]()
  rmSync(directory, { recursive: true, force: true })
})

const execute = async (owner: typeof ACME, command: string, wishes: Partial<ExecutionSpecInput> = {}) => {
  const execution = node.engine.execute(spec({ command, ...wishes }), { ...owner, stream: false })
  const { exitCode, stdout, stderr } = await execution.result
  return { exitCode, stdout, stderr }
}
const put = (owner: typeof ACME, name: string, sizeMb = 16) => volumes.put(owner.tenant, name, { sizeMb, labels: {} })

describe('a volume', () => {
  test('holds what one sandbox wrote for the next, and for an instance at the same time', async () => {
    await put(ACME, 'data')
    const mounted = { volumes: [{ name: 'data', path: '/mnt/data' }] }
    await execute(ACME, 'echo one > /mnt/data/a; chmod 600 /mnt/data/a', mounted)
    const { id } = await node.engine.instances.create(instanceSpec(mounted), ACME)
    using lease = await node.engine.instances.use(id, ACME.tenant)
    expect(await run(lease, 'cat /mnt/data/a; echo two > /mnt/data/b')).toMatchObject({ stdout: 'one\n', exitCode: 0 })
    expect(await execute(ACME, 'cat /mnt/data/b; stat -c %u:%a /mnt/data/a', mounted)).toMatchObject({
      stdout: 'two\n0:600\n',
    })
    expect(await volumes.get(ACME.tenant, 'data')).toMatchObject({
      name: 'data',
      kind: 'volume',
      sizeMb: 16,
      usedBy: [id],
    })
    await expect(volumes.remove(ACME.tenant, 'data')).rejects.toMatchObject({ code: 'conflict' })
    expect((await run(lease, 'cat /mnt/data/b')).stdout).toBe('two\n')
  })

  test('is its tenant’s alone, has a size, and may be mounted read-only', async () => {
    await put(ACME, 'data')
    await put(OTHER, 'data')
    const mounted = { volumes: [{ name: 'data', path: '/mnt' }] }
    await execute(ACME, 'echo secret > /mnt/a', mounted)
    expect(await execute(OTHER, 'ls -A /mnt', mounted)).toMatchObject({ stdout: '', exitCode: 0 })
    const full = await execute(ACME, 'dd if=/dev/zero of=/mnt/big bs=1M count=32; ls -l /mnt/big; rm /mnt/big', mounted)
    expect(full.stderr).toMatch(/quota|space/i)
    const readOnly = { volumes: [{ name: 'data', path: '/mnt', readOnly: true }] }
    const refused = await execute(ACME, 'cat /mnt/a; echo x > /mnt/a', readOnly)
    expect(refused).toMatchObject({ stdout: 'secret\n', exitCode: 1 })
  })

  test('refuses names that are not there, and places that make a sandbox a sandbox', async () => {
    await put(ACME, 'data')
    const at = (name: string, path: string) => execute(ACME, 'true', { volumes: [{ name, path }] })
    await expect(at('none', '/mnt')).rejects.toMatchObject({ code: 'not_found' })
    for (const path of ['/', '/proc', '/proc/sys', '/dev/../sys', '/.bramble/run', '/a/../..', '/a\nlower=/'])
      await expect(at('data', path)).rejects.toMatchObject({ code: 'invalid_request' })
    await expect(volumes.get(OTHER.tenant, 'data')).rejects.toMatchObject({ code: 'not_found' })
    await expect(volumes.remove(OTHER.tenant, 'data')).rejects.toMatchObject({ code: 'not_found' })
  })

  test('is gone when it is removed', async () => {
    await put(ACME, 'data')
    await execute(ACME, 'echo one > /mnt/a', { volumes: [{ name: 'data', path: '/mnt' }] })
    await volumes.remove(ACME.tenant, 'data')
    await put(ACME, 'data')
    expect(await execute(ACME, 'ls -A /mnt', { volumes: [{ name: 'data', path: '/mnt' }] })).toMatchObject({
      stdout: '',
    })
  })
})

const content = (text: string): string => {
  const digest = createHash('sha512').update(text).digest('hex')
  return `${NPM}/content-v2/sha512/${digest.slice(0, 2)}/${digest.slice(2, 4)}/${digest.slice(4)}`
}
const indexEntry = (key: string): [path: string, text: string] => {
  const bucket = createHash('sha256').update(key).digest('hex')
  const json = JSON.stringify({ key })
  return [
    `${NPM}/index-v5/${bucket.slice(0, 2)}/${bucket.slice(2, 4)}/${bucket.slice(4)}`,
    `\n${createHash('sha1').update(json).digest('hex')}\t${json}`,
  ]
}
const write = (path: string, text: string): string => `mkdir -p "$(dirname ${path})"; printf '%s' '${text}' > ${path}`
/** Until what a sandbox that is gone had added is there for others. */
const promoted = async (owner: typeof ACME): Promise<void> => {
  while (!(await volumes.list(owner.tenant)).some(({ kind }) => kind === 'cache')) await new Promise(setImmediate)
}
const cached = { caches: ['npm' as const] }
/** Until others have a file. */
const seen = async (owner: typeof ACME, path: string): Promise<void> => {
  while ((await execute(owner, `cat ${path}`, cached)).exitCode !== 0);
}

describe('a dependency cache', () => {
  test('gives the next sandbox of the tenant what one added, and other tenants nothing', async () => {
    await execute(ACME, write(content('tarball'), 'tarball'), cached)
    await promoted(ACME)
    expect((await execute(ACME, `cat ${content('tarball')}`, cached)).stdout).toBe('tarball')
    expect(await execute(OTHER, `ls -A ${NPM}`, cached)).toMatchObject({ stdout: '', exitCode: 0 })
    expect(await volumes.list(ACME.tenant)).toMatchObject([{ name: 'npm', kind: 'cache', usedBytes: 'tarball'.length }])
  })

  test('takes nothing that is not what its name says, and nothing in the place of something else', async () => {
    const good = content('good')
    await execute(ACME, write(good, 'good'), cached)
    await promoted(ACME)
    const attack = [
      write(good, 'evil'),
      write(content('other'), 'not other'),
      write(...indexEntry('key')),
      write(`${NPM}/anything`, 'x'),
      `mkdir -p ${NPM}/content-v2/sha512/aa; ln -s /etc/passwd ${NPM}/content-v2/sha512/aa/bb`,
      `ln -s /etc ${NPM}/content-v2/sha256`,
      `mkfifo ${NPM}/content-v2/fifo`,
      write(content('honest'), 'honest'),
    ]
    await execute(ACME, attack.join('; '), cached)
    // It is promoted with the others, or after them.
    await seen(ACME, content('honest'))
    const after = await execute(ACME, `cat ${good}; echo; cd ${NPM}; find . ! -type d`, cached)
    expect(after.stdout.split('\n')[0]).toBe('good')
    expect(after.stdout.match(/^\.\/.*$/gm)).toHaveLength(2)
  })

  test('is a tree without loops to who looks at inodes, whoever of its layers has a directory', async () => {
    const names = ['one', 'two', 'three', 'four', 'five'].map(content)
    await execute(
      ACME,
      names
        .slice(0, 3)
        .map((name, i) => write(name, ['one', 'two', 'three'][i] ?? ''))
        .join(';'),
      cached,
    )
    await promoted(ACME)
    const look = `${write(names[3] ?? '', 'four')}; ${write(names[4] ?? '', 'five')}
      find ${NPM} | while read path; do stat -c %d:%i $path; done | sort | uniq -d; find ${NPM} -type f | wc -l`
    expect((await execute(ACME, look, cached)).stdout).toBe('5\n')
    await seen(ACME, content('five'))
  })

  test('is for every user of a sandbox, in directories that are of whose home it is', async () => {
    const look =
      'cd; stat -c %u .npm; mkdir .npm/_logs && cd .npm/_cacache && echo more >> $(find . -type f) && mkdir tmp'
    await execute(ACME, write(content('tarball'), 'tarball'), cached)
    await promoted(ACME)
    expect(await execute(ACME, look, { ...cached, user: 'app' })).toMatchObject({ stdout: '1000\n', exitCode: 0 })
    expect(await execute(ACME, look, cached)).toMatchObject({ stdout: '0\n', exitCode: 0 })
  })

  test('begins with the seed for every tenant, which none of them changes', async () => {
    await execute(ACME, write(content('seeded'), 'seeded'), cached)
    await promoted(ACME)
    await volumes.seed(ACME.tenant, 'npm')
    await execute(OTHER, `${write(content('seeded'), 'evil')}; ${write(content('own'), 'own')}`, cached)
    await promoted(OTHER)
    expect((await execute(OTHER, `cat ${content('seeded')} ${content('own')}`, cached)).stdout).toBe('seededown')
    expect((await execute(ACME, `cat ${content('seeded')}; ls ${content('own')}`, cached)).stdout).toBe('seeded')
  })

  test('of an instance is promoted when it stops, and stays its own meanwhile', async () => {
    const { id } = await node.engine.instances.create(instanceSpec(cached), ACME)
    {
      using lease = await node.engine.instances.use(id, ACME.tenant)
      await run(lease, `${write(content('mine'), 'mine')}; echo note > ${NPM}/note`)
    }
    await node.engine.instances.stop(id, ACME.tenant)
    expect((await execute(ACME, `cat ${content('mine')}; ls ${NPM}`, cached)).stdout).toBe('minecontent-v2\n')
    await node.engine.instances.start(id, ACME.tenant)
    using lease = await node.engine.instances.use(id, ACME.tenant)
    expect((await run(lease, `cat ${content('mine')} ${NPM}/note`)).stdout).toBe('minenote\n')
  })
})
