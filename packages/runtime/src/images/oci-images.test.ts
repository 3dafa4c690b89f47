import { execFile } from 'node:child_process'
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { beforeEach, describe, expect, it } from 'vitest'
import { hostArchitecture } from './oci-manifest.ts'
import { type CraftedImage, craftLayout } from './testing/craft-layout.ts'
import { craftTar } from './testing/craft-tar.ts'
import { needs, openTestStore } from './testing/test-store.ts'

const run = promisify(execFile)
const LAYER = craftTar([
  { name: 'kept', body: 'kept' },
  { name: 'gone', body: 'gone' },
  { name: 'd/old', body: 'old' },
])
const UPPER = craftTar([
  { name: '.wh.gone', body: '' },
  { name: 'd/.wh..wh..opq', body: '' },
  { name: 'd/new', body: 'new' },
])
const OTHER = hostArchitecture() === 'arm64' ? 'amd64' : 'arm64'

beforeEach((context) => needs(context, 'umoci'))

const withLayout = async (image?: CraftedImage) => {
  const test = await openTestStore()
  const layout = await craftLayout(test.path('layout'))
  const source = { kind: 'ociLayout', path: test.path('layout') } as const
  const descriptor = image && (await layout.addImage(image))
  if (descriptor) await layout.writeIndex([descriptor])
  return { test, layout, source, descriptor, [Symbol.asyncDispose]: () => test[Symbol.asyncDispose]() }
}

describe('an OCI layout', () => {
  it('gives an image with the digest of its manifest, its layers in order and its config', async () => {
    const config = { Env: ['PATH=/bin', 'EMPTY=', 'EQUALS=a=b'], WorkingDir: '/srv', User: 'app:staff' }
    await using made = await withLayout({ layers: [LAYER, UPPER], config })
    const image = await made.test.store.import(made.source)
    expect(image.digest).toBe(made.descriptor?.digest)
    expect((await readdir(image.rootfs)).sort()).toEqual(['d', 'kept'])
    expect(await readdir(join(image.rootfs, 'd'))).toEqual(['new'])
    expect(image.config).toEqual({
      env: { PATH: '/bin', EMPTY: '', EQUALS: 'a=b' },
      workdir: '/srv',
      user: 'app:staff',
    })
  })

  it('may have layers in gzip and zstd', async () => {
    const layers = [gzipSync(LAYER), zstdCompressSync(UPPER)]
    await using made = await withLayout({ layers, plainLayers: [LAYER, UPPER] })
    const image = await made.test.store.import(made.source)
    expect((await readdir(image.rootfs)).sort()).toEqual(['d', 'kept'])
    expect(image.config).toEqual({ env: {}, workdir: '/', user: 'root' })
  })

  it("for many platforms gives the host's, through an index in the index", async () => {
    await using made = await withLayout()
    const mine = await made.layout.addImage({ layers: [LAYER] })
    const other = await made.layout.addImage({ layers: [UPPER], architecture: OTHER })
    const attestation = await made.layout.addImage({ layers: [] })
    const index = await made.layout.addJson(
      {
        manifests: [
          { ...attestation, platform: { os: 'unknown', architecture: 'unknown' } },
          { ...other, platform: { os: 'linux', architecture: OTHER } },
          { ...mine, platform: { os: 'linux', architecture: hostArchitecture() } },
        ],
      },
      'index',
    )
    await made.layout.writeIndex([index])
    expect((await made.test.store.import(made.source)).digest).toBe(mine.digest)
  })

  it('for other platforms alone is refused, and says what it is for', async () => {
    await using made = await withLayout({ layers: [LAYER], architecture: OTHER })
    await made.test.expectRefused(made.source, new RegExp(`it is for linux/${OTHER}`))
    const platform = { os: 'linux', architecture: OTHER }
    await made.layout.writeIndex([{ ...made.descriptor, platform }].flatMap((d) => ('digest' in d ? [d] : [])) as never)
    await made.test.expectRefused(made.source, new RegExp(`no image for linux/.*, but for linux/${OTHER}`))
  })

  it('of several images is refused, as it does not say which', async () => {
    await using made = await withLayout()
    await made.layout.writeIndex([
      await made.layout.addImage({ layers: [LAYER] }),
      await made.layout.addImage({ layers: [UPPER] }),
    ])
    await made.test.expectRefused(made.source, /holds 2 images/)
  })
})

describe('a layout that lies is refused', () => {
  const digest = `sha256:${'0'.repeat(64)}`
  const lies: [string, CraftedImage, RegExp][] = [
    ['about a layer by its size, too small', { layers: [LAYER], lie: (m) => resize(m.layers[0], -1) }, /manifest says/],
    ['about a layer by its size, too large', { layers: [LAYER], lie: (m) => resize(m.layers[0], 1) }, /manifest says/],
    ['about the config by its size', { layers: [LAYER], lie: (m) => resize(m.config, 7) }, /manifest says/],
    ['with diff ids of other layers', { layers: [LAYER], diffIds: [digest] }, /other bytes than its config says/],
    [
      'with fewer diff ids than layers',
      { layers: [LAYER], diffIds: [] },
      /config tells of 0 layers, its manifest of 1/,
    ],
    [
      'with a digest that is a path',
      { layers: [], lie: (m) => redigest(m.config, 'sha256:../../canary') },
      /sha256 dig/,
    ],
    ['with a blob that is not there', { layers: [], lie: (m) => redigest(m.config, digest) }, /cannot be opened/],
    ['with a nameless variable', { layers: [LAYER], config: { Env: ['=x'] } }, /variable without a name/],
  ]
  const resize = (descriptor: { size: number } | undefined, by: number) => {
    if (descriptor) descriptor.size += by
  }
  const redigest = (descriptor: { digest: string }, digest: string) => {
    descriptor.digest = digest
  }
  for (const [what, image, detail] of lies) {
    it(what, async () => {
      await using made = await withLayout(image)
      await made.test.expectRefused(made.source, detail)
    })
  }

  it('with a blob of other bytes than its digest', async () => {
    await using made = await withLayout({ layers: [LAYER] })
    const manifest = JSON.parse(await readFile(made.layout.blobPath(made.descriptor?.digest ?? ''), 'utf8'))
    const layerPath = made.layout.blobPath(manifest.layers[0].digest)
    const changed = Buffer.from(LAYER)
    changed.write('KEPT', 512)
    await writeFile(layerPath, changed)
    await made.test.expectRefused(made.source, /other bytes than its digest says/)
    await writeFile(layerPath, LAYER)
    const manifestPath = made.layout.blobPath(made.descriptor?.digest ?? '')
    await writeFile(
      manifestPath,
      (await readFile(manifestPath, 'utf8')).replace('"schemaVersion":2', '"schemaVersion":3'),
    )
    await made.test.expectRefused(made.source, /other bytes than its digest says/)
  })

  it('with an index that is not JSON, whose text is not shown', async () => {
    await using made = await withLayout({ layers: [LAYER] })
    await writeFile(test(made, 'index.json'), 'root:secret:0:0')
    await made.test.expectRefused(made.source, /^its index is not JSON$/)
    await rm(test(made, 'index.json'))
    await made.test.expectRefused(made.source, /cannot be opened \(ENOENT\)/)
  })
  const test = (made: { test: { path(name: string): string } }, name: string) => made.test.path(`layout/${name}`)
})

describe('an OCI archive', () => {
  it('made by skopeo gives the same digest as its layout', async (context) => {
    await needs(context, 'skopeo')
    await using made = await withLayout({ layers: [LAYER, UPPER] })
    const path = made.test.path('image.tar')
    await run('skopeo', ['copy', `oci:${made.source.path}`, `oci-archive:${path}:name`])
    const image = await made.test.store.import({ kind: 'ociArchive', path })
    expect((await readdir(image.rootfs)).sort()).toEqual(['d', 'kept'])
    await run('gzip', [path])
    const again = await made.test.store.import({ kind: 'ociArchive', path: `${path}.gz` })
    expect(again.digest).toBe(image.digest)
  })

  it('may be one of `docker save`', async (context) => {
    await needs(context, 'skopeo')
    await using made = await withLayout({ layers: [LAYER, UPPER], config: { Env: ['A=1'] } })
    const path = made.test.path('docker.tar')
    await run('skopeo', ['copy', `oci:${made.source.path}`, `docker-archive:${path}:name:tag`])
    const image = await made.test.store.import({ kind: 'ociArchive', path })
    expect((await readdir(image.rootfs)).sort()).toEqual(['d', 'kept'])
    expect(image.config.env).toEqual({ A: '1' })
    expect((await made.test.store.import({ kind: 'ociArchive', path })).digest).toBe(image.digest)
  })

  it('of something else, of bad blobs, or of names that climb is refused', async () => {
    await using test = await openTestStore()
    const refuse = async (data: Buffer, detail: RegExp) =>
      test.expectRefused({ kind: 'ociArchive', path: await test.file('in.tar', data) }, detail)
    await refuse(LAYER, /neither an OCI archive nor one of `docker save`/)
    await refuse(craftTar([{ name: `blobs/sha256/${'0'.repeat(64)}`, body: 'x' }]), /other bytes than its name/)
    await refuse(
      craftTar([
        { name: 'blobs/sha256/../../../../canary', body: 'overwritten' },
        { name: 'index.json', flag: '2', link: '/etc/passwd' },
      ]),
      /neither an OCI archive/,
    )
    await refuse(craftTar([{ name: 'manifest.json', body: '[{"Config":"../../../etc/passwd","Layers":[]}]' }]), /./)
  })
})
