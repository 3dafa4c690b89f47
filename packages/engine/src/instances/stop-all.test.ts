import { makeTestImage, type TestImage } from '@bramble/runtime/testing'
import { afterAll, beforeAll, expect, type TestContext, test } from 'vitest'
import { countLeft } from './count-left.ts'
import { instanceSpec, makeDirectory, OWNER, openInstanceNode, removeAll } from './testing.ts'

let image: TestImage
beforeAll(async () => {
  image = await makeTestImage()
})
afterAll(() => image[Symbol.asyncDispose]())

const open = async (context: TestContext, directory: string) => {
  const node = await openInstanceNode(directory, image)
  if ('skip' in node) return context.skip(node.skip)
  return node
}

test('what goes on without a node is counted, and stopped by the next one, whose tenant it may be', async (context) => {
  await using made = await makeDirectory()
  const directory = made.path
  expect(await countLeft(directory)).toEqual(new Map())
  const first = await open(context, directory)
  const { instances } = first.engine
  const other = { tenant: 'umbrella', keyId: 'key_other' }
  await instances.create(instanceSpec({ name: 'runs' }), OWNER)
  await instances.create(instanceSpec({ name: 'paused' }), other)
  await instances.create(instanceSpec({ name: 'stopped' }), other)
  await instances.pause('paused', other.tenant)
  await instances.stop('stopped', other.tenant)
  await expect(countLeft(directory)).rejects.toMatchObject({ code: 'conflict' })
  await first.close()
  expect(await countLeft(directory)).toEqual(new Map([[first.runtime.name, 2]]))

  const second = await open(context, directory)
  try {
    const again = second.engine.instances
    expect(await again.stopAll()).toBe(2)
    expect(await again.stopAll()).toBe(0)
    expect(await again.get('runs', OWNER.tenant)).toMatchObject({ status: 'stopped' })
    expect(await again.get('paused', other.tenant)).toMatchObject({ status: 'stopped' })
  } finally {
    await removeAll(second, [OWNER.tenant, other.tenant])
    await second.close()
  }
  expect(await countLeft(directory)).toEqual(new Map())
})
