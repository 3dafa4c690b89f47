import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { CacheName } from '@bramble/protocol'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, type TestContext, test } from 'vitest'
import { makeToolImage, type ToolImage } from '../../test/tool-image.ts'
import { type InstanceNode, instanceSpec, openInstanceNode, run } from '../instances/testing.ts'
import type { Volumes } from './volumes.ts'

const TENANTS = ['acme', 'other', 'third']

let directory = ''
let skip: string | undefined
let image: ToolImage
let node: InstanceNode
let volumes: Volumes

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'bramble-tools-'))
  const made = await makeToolImage()
  if ('skip' in made) {
    skip = made.skip
    return
  }
  image = made
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
  for (const tenant of TENANTS)
    for (const { name } of await volumes.list(tenant)) await volumes.clearCache(tenant, name as CacheName)
})
afterAll(async () => {
  await node?.close()
  await image?.[Symbol.asyncDispose]()
  rmSync(directory, { recursive: true, force: true })
})

/** Runs a script beside the registry in a fresh sandbox; what that adds to its cache is promoted when this resolves. */
const beside = async (tenant: string, cache: CacheName, script: string, { user = 'root', env = {} } = {}) => {
  const { instances } = node.engine
  const owner = { tenant, keyId: `key_${tenant}` }
  const { id } = await instances.create(
    instanceSpec({ caches: [cache], user, env, resources: { memoryMb: 512 } }),
    owner,
  )
  try {
    using lease = await instances.use(id, tenant)
    const { exitCode, stdout, stderr } = await run(lease, {
      command: ['/usr/bin/node', '/srv/with-registry.mjs', `mkdir /tmp/work; cd /tmp/work\n${script}`],
      env: { NPM: image.npm.join(' '), PYTHON: image.python ?? '' },
      timeoutMs: 60_000,
    })
    const lines = stdout.split('\n').filter((line) => line !== '')
    const requests = JSON.parse(lines.pop() ?? '[]') as string[]
    return { exitCode, stderr, said: lines, requests, archives: requests.filter((path) => ARCHIVE.test(path)) }
  } finally {
    await instances.stop(id, tenant)
    await instances.remove(id, tenant)
  }
}
const ARCHIVE = /^\/(tarballs|wheels)\//

const REGISTRY =
  'printf "registry=http://127.0.0.1:4873/\\naudit=false\\nupdate-notifier=false\\n" > .npmrc; echo "$MANIFEST" > package.json'
const MANIFEST = '{"dependencies":{"alpha":"1.0.0"}}'
const SAY = `node -e 'console.log(require("alpha"))'`
const BOTH = ['/tarballs/alpha-1.0.0.tgz', '/tarballs/beta-1.0.0.tgz']

let lock = ''
beforeAll(async () => {
  if (skip !== undefined) return
  const made = await beside(
    'other',
    'npm',
    `${REGISTRY}; $NPM install --package-lock-only >&2; cat package-lock.json`,
    {
      env: { MANIFEST },
    },
  )
  lock = made.said.join('\n')
})
const ci = (tenant: string, { user = 'root', after = SAY, flags = '' } = {}) =>
  beside(tenant, 'npm', `${REGISTRY}; echo "$LOCK" > package-lock.json; $NPM ci ${flags} >&2; ${after}`, {
    user,
    env: { MANIFEST, LOCK: lock },
  })
const worked = { exitCode: 0, said: ['alpha and beta'] }

describe('npm ci', () => {
  test('downloads once for a tenant, whoever of its sandboxes’ users runs it, and again for another', async () => {
    const first = await ci('acme')
    expect(first).toMatchObject(worked)
    expect(first.archives.toSorted()).toEqual(BOTH)
    expect(await ci('acme')).toMatchObject({ ...worked, requests: [] })
    expect(await ci('acme', { flags: '--offline' })).toMatchObject({ ...worked, requests: [] })
    expect(await ci('acme', { user: 'app' })).toMatchObject({
      ...worked,
      requests: [],
      stderr: expect.not.stringMatching(/EACCES|EPERM/),
    })
    expect((await ci('other')).archives.toSorted()).toEqual(BOTH)
  })

  test('is the same after a sandbox of the tenant has rewritten its cache', async () => {
    const install = `$NPM install --prefer-offline >&2; ${SAY}`
    const poison = `NODE_PATH=/usr/lib/npm/node_modules node -e '${POISON}'; rm -r node_modules package-lock.json; ${install}`
    const poisoned = await ci('acme', { after: `$NPM cache add beta@1.0.0 >&2; ${poison}` })
    // So it is what npm believes.
    expect(poisoned).toMatchObject({ exitCode: 0, said: ['alpha and evil'] })
    expect(await ci('acme')).toMatchObject(worked)
    expect(await beside('acme', 'npm', `${REGISTRY}; ${install}`, { env: { MANIFEST } })).toMatchObject(worked)
  })
})

describe('pip install', () => {
  beforeEach((context: TestContext) => {
    if (image.python === undefined) context.skip('this host has no Python with pip')
  })
  const INSTALL = `$PYTHON -m pip install --disable-pip-version-check --index-url http://127.0.0.1:4873/simple \
    --trusted-host 127.0.0.1:4873 --target`
  const install = (tenant: string, { user = 'root', after = '', env = {} } = {}) =>
    beside(tenant, 'pip', `${INSTALL} a demo >&2; PYTHONPATH=a $PYTHON -m demo; ${after}`, { user, env })
  const worked = { exitCode: 0, said: ['good'], stderr: expect.not.stringMatching(/cache has been disabled|denied/i) }

  test('downloads once for a tenant, whoever of its sandboxes’ users runs it, and again for another', async () => {
    const first = await install('acme')
    expect(first).toMatchObject(worked)
    expect(first.archives).toEqual(['/wheels/demo-1.0-py3-none-any.whl'])
    for (const user of ['root', 'app'])
      expect(await install('acme', { user })).toMatchObject({ ...worked, archives: [] })
    expect(await install('other', { user: 'app' })).toMatchObject({ ...worked, archives: first.archives })
    expect(await install('other')).toMatchObject({ ...worked, archives: [] })
    const elsewhere = { env: { PIP_CACHE_DIR: '/var/cache/pip' } }
    expect(await install('acme', elsewhere)).toMatchObject({ ...worked, archives: [] })
  })

  test('takes no other version after a sandbox of the tenant has rewritten its cache', async () => {
    const poison = (what: string): string => `$PYTHON -c '${POISON_PIP}' ${what}`
    const after = `${poison('page')}; ${INSTALL} b demo >&2; PYTHONPATH=b $PYTHON -m demo`
    // So it is what pip believes.
    expect(await install('acme', { after })).toMatchObject({ exitCode: 0, said: ['good', 'evil'] })
    expect(await install('acme')).toMatchObject(worked)
    await install('other', { after: poison('wheel') })
    expect(await install('other')).toMatchObject({
      exitCode: 1,
      said: [],
      stderr: expect.stringContaining('DO NOT MATCH'),
    })
    await volumes.clearCache('other', 'pip')
    expect(await install('other')).toMatchObject(worked)
  })
})

describe('a seed of the node’s admin', () => {
  test('serves a tenant that downloaded nothing yet', async () => {
    await ci('acme')
    await volumes.seed('acme', 'npm')
    expect(await ci('third')).toMatchObject({ ...worked, requests: [] })
  })
})

/** Another tarball of beta, said to be the one, in the content and in what the registry is remembered to have said. */
const POISON = `
  const cacache = require("cacache"), { readFileSync } = require("fs"), cache = process.env.HOME + "/.npm/_cacache"
  const main = async () => {
    const evil = await cacache.put(cache, "evil", readFileSync("/srv/evil/beta-1.0.0.tgz"))
    for (const [key, { integrity, metadata, path }] of Object.entries(await cacache.ls(cache))) {
      if (key.endsWith("/beta")) {
        const forged = JSON.parse((await cacache.get(cache, key)).data)
        forged.versions["1.0.0"].dist.integrity = String(evil)
        await cacache.put(cache, key, JSON.stringify(forged), { metadata })
      } else if (key.includes("tarballs/beta")) {
        await cacache.put(cache, key, readFileSync("/srv/evil/beta-1.0.0.tgz"), { metadata })
        require("fs").writeFileSync(path, readFileSync("/srv/evil/beta-1.0.0.tgz"))
      }
    }
  }
  main()`

/** What pip remembers, its ETags kept: the page of the index leads to another wheel, or the wheel is another. */
const POISON_PIP = `
import hashlib, pathlib, sys
from pip._vendor import msgpack
good, evil = (pathlib.Path(f"/srv/{part}/demo-1.0-py3-none-any.whl").read_bytes() for part in ("wheels", "evil"))
digests = [hashlib.sha256(wheel).hexdigest().encode() for wheel in (good, evil)]
def forge(data):
    if sys.argv[1] == "page":
        return data.replace(digests[0], digests[1]).replace(b"/wheels/", b"/evil/")
    return data.replace(good, evil)
for path in (pathlib.Path.home() / ".cache/pip").glob("http*/**/*"):
    if path.is_file():
        data = path.read_bytes()
        if data.startswith(b"cc=4,"):
            entry = msgpack.loads(data[5:], raw=False)
            entry["response"]["body"] = forge(entry["response"]["body"])
            path.write_bytes(b"cc=4," + msgpack.dumps(entry, use_bin_type=True))
        else:
            path.write_bytes(forge(data))
`
