import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { makeNetworkLayer, removeNetworkLayers } from './network-layer.ts'

test('a layer that many sandboxes need first at the same time is one, whole, with nothing beside it', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-layer-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  const made = await Promise.all(Array.from({ length: 20 }, () => makeNetworkLayer(directory, '192.0.2.1', 'box')))
  const [layer = ''] = made
  expect(new Set(made)).toEqual(new Set([layer]))
  expect(await readdir(directory)).toEqual([basename(layer)])
  expect(await readFile(join(layer, 'etc/resolv.conf'), 'utf8')).toBe('nameserver 192.0.2.1\n')
  expect((await stat(join(layer, 'etc/hosts'))).mode & 0o777).toBe(0o644)
  expect(await makeNetworkLayer(directory, '192.0.2.1', 'other')).not.toBe(layer)
  await removeNetworkLayers(directory)
  expect(await readdir(directory)).toEqual([])
})
