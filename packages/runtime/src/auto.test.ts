import { describe, expect, test } from 'vitest'
import { auto } from './auto.ts'
import { fake, makeFakeHost } from './fake/fake.ts'
import type { Capabilities, Runtime } from './runtime.ts'
import { configOf, makeTestImage, outputOf, runCommand, testRuntime } from './testing.ts'

const open = async (host = makeFakeHost()): Promise<Runtime> => {
  const probe = await fake()({ host })
  if (!probe.available) throw new Error(probe.reason)
  return probe.runtime
}

const renamed = (runtime: Runtime, name: string, capabilities: Partial<Capabilities>): Runtime => ({
  ...runtime,
  name,
  capabilities: { ...runtime.capabilities, ...capabilities },
})

testRuntime('auto', {
  open: async () => {
    const host = makeFakeHost()
    const image = await makeTestImage()
    return {
      runtime: auto([await open(host)]),
      image,
      openFresh: async () => {
        const fresh = makeFakeHost()
        return { runtime: auto([await open(fresh)]), restart: async () => auto([await open(fresh)]) }
      },
      killAgent: async (sandbox) => {
        await runCommand(sandbox, ['fake-die']).catch(() => undefined)
      },
      close: () => image[Symbol.asyncDispose](),
    }
  },
})

describe('auto chooses', () => {
  test('the first by default, another by name or by isolation, and never one without isolation by itself', async () => {
    const container = renamed(await open(), 'oci', { isolation: 'container' })
    const vm = renamed(await open(), 'microvm', { isolation: 'vm', checkpoint: true })
    await using runtime = auto([container, vm], [{ name: 'docker', reason: 'no engine answers' }])
    expect(runtime.select({})).toBe(container)
    expect(runtime.select({ runtime: 'microvm' })).toBe(vm)
    expect(runtime.select({ isolation: 'vm' })).toBe(vm)
    expect(runtime.capabilities).toMatchObject({ isolation: 'container', checkpoint: true })
    expect(() => runtime.select({ isolation: 'gvisor' })).toThrowError(expect.objectContaining({ code: 'unsupported' }))
    expect(() => runtime.select({ runtime: 'docker' })).toThrowError(/no engine answers/)
    expect(() => auto([], [{ name: 'oci', reason: 'not root' }])).toThrowError(
      expect.objectContaining({ code: 'no_isolation', detail: 'oci: not root' }),
    )
  })

  test('and makes the sandbox there', async () => {
    await using image = await makeTestImage()
    const first = renamed(await open(), 'oci', { isolation: 'container' })
    const second = renamed(await open(), 'microvm', { isolation: 'vm' })
    await using runtime = auto([first, second])
    const config = { ...configOf({ image }), isolation: 'vm' as const }
    await using _ = await runtime.create(config)
    expect(await first.list()).toEqual([])
    expect(await second.list()).toEqual([config.id])
    expect(await runtime.list()).toEqual([config.id])
  })

  test('the driver of a seal for what continues from it', async () => {
    await using image = await makeTestImage()
    const [first, second] = [renamed(await open(), 'oci', {}), renamed(await open(), 'docker', {})]
    await using runtime = auto([first, second])
    const made = await runtime.create({ ...configOf({ image }), runtime: 'docker' })
    await outputOf(made, 'echo sealed > /root/file')
    await made.seal?.({ name: 'one', memory: false })
    const branch = await runtime.create({ ...configOf({ image }), from: { seal: 'one', memory: false } })
    expect(await outputOf(branch, 'cat /root/file')).toBe('sealed\n')
    expect(await second.list()).toContain(branch.id)
    await runtime.seals?.write('two', { entries: [], read: async function* () {}, diskBytes: 0 })
    expect((await first.seals?.list())?.map(({ name }) => name)).toEqual(['two'])
    expect((await runtime.seals?.list())?.map(({ name }) => name).sort()).toEqual(['one', 'two'])
    expect(await runtime.seals?.usedBytes('one')).toBeGreaterThan(0)
    await runtime.seals?.remove('one')
    const gone = { ...configOf({ image }), from: { seal: 'one', memory: false } }
    await expect(runtime.create(gone)).rejects.toMatchObject({ code: 'not_found' })
  })
})
