import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { sourceOf } from './source.ts'

const directory = mkdtempSync(join(tmpdir(), 'bramble-source-'))
afterAll(() => rmSync(directory, { recursive: true }))

const tarOf = (name: string, files: string[]): string => {
  const root = mkdtempSync(join(directory, 'tree-'))
  for (const file of files) {
    mkdirSync(join(root, file, '..'), { recursive: true })
    writeFileSync(join(root, file), 'x'.repeat(700))
  }
  const path = join(directory, name)
  execFileSync('tar', ['-C', root, '-cf', path, '.'])
  return path
}

test('a reference that is no path is of a registry, or of a Docker Engine', async () => {
  expect(await sourceOf('debian:12', {})).toEqual({ reference: 'debian:12' })
  expect(await sourceOf('localhost:5000/x', { insecure: true, name: 'x' })).toEqual({
    reference: 'localhost:5000/x',
    insecure: true,
    name: 'x',
  })
  expect(await sourceOf('docker:alpine', {})).toEqual({ dockerImage: 'alpine' })
  await expect(sourceOf('./missing.tar', {})).rejects.toThrow('no such file')
})

test('a tar is told by what is in it, and called by its file', async () => {
  const oci = tarOf('My App.tar', ['blobs/sha256/a', 'index.json', 'oci-layout'])
  expect(await sourceOf(oci, {})).toEqual({ ociArchive: oci, name: 'my-app' })
  expect(await sourceOf(oci, { format: 'rootfs', name: 'n' })).toEqual({ rootfsTar: oci, name: 'n' })
  const rootfs = tarOf('rootfs-3.tar', ['etc/passwd', 'bin/sh'])
  expect(await sourceOf(rootfs, {})).toEqual({ rootfsTar: rootfs, name: 'rootfs-3' })
})

test('what `docker save` writes is told from a root filesystem that has a file of that name', async () => {
  const manifest = (text: string, name: string): string => {
    const root = mkdtempSync(join(directory, 'saved-'))
    writeFileSync(join(root, 'manifest.json'), text)
    const path = join(directory, name)
    execFileSync('tar', ['-C', root, '-cf', path, 'manifest.json'])
    return path
  }
  const saved = manifest('[{"Config":"ab.json","RepoTags":["x:latest"],"Layers":["ab/layer.tar"]}]', 'saved.tar')
  expect(await sourceOf(saved, {})).toEqual({ ociArchive: saved, name: 'saved' })
  const rootfs = manifest('{"name": "an extension of a browser"}', 'other.tar')
  expect(await sourceOf(rootfs, {})).toEqual({ rootfsTar: rootfs, name: 'other' })
})

test('a file that is no tar is left to the node to refuse; a directory must be a layout', async () => {
  const junk = join(directory, 'junk.tar.gz')
  writeFileSync(junk, 'not a tar')
  expect(await sourceOf(junk, {})).toEqual({ rootfsTar: junk, name: 'junk' })
  await expect(sourceOf(directory, {})).rejects.toThrow('not an OCI layout')
  writeFileSync(join(directory, 'oci-layout'), '{}')
  expect(await sourceOf(directory, {})).toMatchObject({ ociLayout: directory })
})
