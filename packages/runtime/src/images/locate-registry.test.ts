import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile, rm } from 'node:fs/promises'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeEach, describe, expect, it } from 'vitest'
import { hostArchitecture } from './oci-manifest.ts'
import { type CraftedDescriptor, craftLayout, sha256 } from './testing/craft-layout.ts'
import { craftTar } from './testing/craft-tar.ts'
import { processesNaming } from './testing/processes-naming.ts'
import { startRegistry } from './testing/start-registry.ts'
import { needs, openTestStore } from './testing/test-store.ts'

const run = promisify(execFile)
const LAYER = craftTar([{ name: 'hello', body: 'hello' }])

beforeEach((context) => needs(context, 'skopeo', 'umoci'))

describe('a pull from a real registry', () => {
  beforeEach((context) => needs(context, 'docker-registry'))

  const withRegistry = async () => {
    const registry = await startRegistry()
    const test = await openTestStore()
    const layout = await craftLayout(test.path('layout'))
    const push = async (manifests: CraftedDescriptor[], name: string, ...options: string[]) => {
      await layout.writeIndex(manifests)
      const to = `docker://${registry.address}/${name}`
      await run('skopeo', ['copy', '--dest-tls-verify=false', ...options, `oci:${test.path('layout')}`, to])
      return { kind: 'registry', reference: `${registry.address}/${name}`, insecure: true } as const
    }
    /** The digest that the registry names in its answer. */
    const digestOf = async (name: string, tag: string) => {
      const accept = 'application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json'
      const answer = await fetch(`http://${registry.address}/v2/${name}/manifests/${tag}`, { headers: { accept } })
      return answer.headers.get('docker-content-digest')
    }
    const dispose = async () => {
      await registry[Symbol.asyncDispose]()
      await test[Symbol.asyncDispose]()
    }
    return { registry, test, layout, push, digestOf, [Symbol.asyncDispose]: dispose }
  }

  it("gives the image the registry's digest, and its name without the registry", async () => {
    await using made = await withRegistry()
    const image = await made.layout.addImage({ layers: [LAYER], config: { Env: ['A=1'] } })
    for (const [tag, ...format] of [['oci'], ['docker', '--format', 'v2s2']]) {
      const source = await made.push([image], `team/hello:${tag}`, ...format)
      const pulled = await made.test.store.import(source)
      expect(pulled.digest).toBe(await made.digestOf('team/hello', tag ?? ''))
      expect(pulled.names).toEqual([`team/hello:${tag}`])
      expect(pulled.config.env).toEqual({ A: '1' })
      expect(await readFile(join(pulled.rootfs, 'hello'), 'utf8')).toBe('hello')
    }
    expect(await readdir(made.test.path('store/tmp'))).toEqual([])
  })

  it('without TLS says what to do, unless it was asked for that way', async () => {
    await using made = await withRegistry()
    const { reference } = await made.push([await made.layout.addImage({ layers: [LAYER] })], 'team/plain:v1')
    const source = { kind: 'registry', reference } as const
    await made.test.expectRefused(source, /no TLS: `insecure`/, 'image_pull_failed')
  })

  it("of many platforms takes the host's", async () => {
    await using made = await withRegistry()
    const other = await made.layout.addImage({ layers: [], architecture: 'riscv64' })
    const mine = await made.layout.addImage({ layers: [LAYER] })
    const index = await made.layout.addJson(
      {
        schemaVersion: 2,
        mediaType: 'application/vnd.oci.image.index.v1+json',
        manifests: [
          { ...other, platform: { os: 'linux', architecture: 'riscv64' } },
          { ...mine, platform: { os: 'linux', architecture: hostArchitecture() } },
        ],
      },
      'index',
    )
    const source = await made.push([index], 'many:latest', '--all')
    const pulled = await made.test.store.import(source, { name: 'mine' })
    expect(await readFile(join(pulled.rootfs, 'hello'), 'utf8')).toBe('hello')
    const byDigest = `${made.registry.address}/many@${pulled.digest}`
    expect((await made.test.store.import({ ...source, reference: byDigest })).digest).toBe(pulled.digest)
  })

  it('fetches no layer of an image that is here', async () => {
    await using made = await withRegistry()
    const source = await made.push([await made.layout.addImage({ layers: [LAYER] })], 'hello:v1')
    const first = await made.test.store.import(source)
    const blobs = join(made.registry.directory, 'docker/registry/v2/blobs/sha256')
    const files = (await readdir(blobs, { recursive: true })).filter((path) => path.endsWith('/data'))
    for (const path of files) {
      // The manifest and the config are JSON.
      if ((await readFile(join(blobs, path)))[0] !== 0x7b) await rm(join(blobs, path))
    }
    expect((await made.test.store.import(source, { name: 'again' })).digest).toBe(first.digest)
    await made.test.store.remove(first.digest, { inUse: () => false })
    await made.test.expectRefused(source, /hello:v1: /, 'image_pull_failed')
  })

  it('of an image that says it is too large ends before it begins', async () => {
    await using made = await withRegistry()
    await using small = await openTestStore({ maxImageBytes: 100 })
    const source = await made.push([await made.layout.addImage({ layers: [LAYER] })], 'hello:v1')
    await small.expectRefused(source, /the limit is 100/)
  })

  it('says why it failed', async () => {
    await using made = await withRegistry()
    const source = await made.push([await made.layout.addImage({ layers: [LAYER] })], 'hello:v1')
    const secure = { kind: 'registry', reference: source.reference } as const
    await made.test.expectRefused(secure, /server gave HTTP response to HTTPS client/, 'image_pull_failed')
    const missing = { ...source, reference: `${made.registry.address}/nothing:v1` }
    await made.test.expectRefused(missing, /manifest unknown/, 'image_pull_failed')
  })
})

describe('a registry that means harm', () => {
  const withServer = async (listener: RequestListener, options = {}) => {
    const server = createServer(listener).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const test = await openTestStore(options)
    const reference = `127.0.0.1:${(server.address() as AddressInfo).port}/bad:v1`
    const dispose = async () => {
      server.closeAllConnections()
      await promisify(server.close.bind(server))()
      await test[Symbol.asyncDispose]()
    }
    return { test, source: { kind: 'registry', reference, insecure: true } as const, [Symbol.asyncDispose]: dispose }
  }

  it('and sends a layer without end is cut off', async () => {
    const config = JSON.stringify({ os: 'linux', rootfs: { type: 'layers', diff_ids: [`sha256:${'1'.repeat(64)}`] } })
    const layerDigest = `sha256:${'2'.repeat(64)}`
    const manifest = JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: {
        mediaType: 'application/vnd.oci.image.config.v1+json',
        digest: `sha256:${sha256(config)}`,
        size: config.length,
      },
      layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: layerDigest, size: 10 }],
    })
    const chunk = Buffer.alloc(64 * 1024)
    await using made = await withServer(
      (request, response) => {
        const { url = '' } = request
        if (url.includes('/manifests/')) {
          response.setHeader('content-type', 'application/vnd.oci.image.manifest.v1+json')
          response.end(manifest)
        } else if (url.endsWith(layerDigest)) {
          const more = () => {
            while (!response.destroyed && response.write(chunk));
          }
          response.on('drain', () => setImmediate(more))
          more()
        } else response.end(url.includes('/blobs/') ? config : '')
      },
      { maxImageBytes: 1_000_000 },
    )
    await made.test.expectRefused(made.source, /limit of 1000000 bytes/)
  })

  it('and never answers holds nobody who leaves', async () => {
    const asked = Promise.withResolvers<void>()
    await using made = await withServer(() => asked.resolve())
    const abort = new AbortController()
    const importing = made.test.store.import(made.source, { signal: abort.signal })
    const refused = expect(importing).rejects.toThrow('enough')
    await asked.promise
    expect(await processesNaming(made.source.reference)).toHaveLength(1)
    abort.abort(new Error('enough'))
    await refused
    expect(await processesNaming(made.source.reference)).toEqual([])
    await made.test.expectEmpty()
  })

  it('answers with a manifest of no known kind', async () => {
    await using made = await withServer((_, response) => response.end('{"schemaVersion":1,"fsLayers":[]}'))
    await made.test.expectRefused(made.source, /manifest is wrong/)
  })
})

it('a reference that is an option, a path or more than a reference is refused', async () => {
  await using test = await openTestStore()
  for (const reference of ['--help', 'a b', '../up', 'a/../b', '', 'a\nb', 'x'.repeat(600)]) {
    await test.expectRefused({ kind: 'registry', reference }, /is not an image reference/, 'image_pull_failed')
  }
})
