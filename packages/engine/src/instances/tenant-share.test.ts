import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { makeTestImage } from '@bramble/runtime/testing'
import { expect, onTestFinished, test } from 'vitest'
import { instanceSpec, OWNER, openInstanceNode, removeAll } from './testing.ts'

test('one tenant cannot take the place of all: stopped instances count, and deleted ones do not', async (context) => {
  const directory = mkdtempSync(join(tmpdir(), 'bramble-share-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  await using image = await makeTestImage()
  const node = await openInstanceNode(directory, image, { limits: { maxTenantInstances: 2 } })
  if ('skip' in node) return context.skip(node.skip)
  const { instances } = node.engine
  const other = { ...OWNER, tenant: 'other' }
  try {
    for (const name of ['first', 'second']) {
      await instances.create(instanceSpec({ name }), OWNER)
      await instances.stop(name, OWNER.tenant)
    }
    const third = () => instances.create(instanceSpec({ name: 'third' }), OWNER)
    await expect(third()).rejects.toMatchObject({ code: 'quota_exceeded' })
    await instances.create(instanceSpec({ name: 'first' }), other)
    await instances.remove('first', OWNER.tenant)
    await third()
  } finally {
    await removeAll(node, [OWNER.tenant, other.tenant])
    await node.close()
  }
})
