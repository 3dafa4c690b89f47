import { newId } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import type { Runtime } from '../runtime.ts'
import { configOf } from '../testing/subject.ts'
import { endOf, makeTestImage, runCommand, testRuntime } from '../testing.ts'
import { type FakeOptions, fake, makeFakeHost } from './fake.ts'

const open = async (options: FakeOptions = {}, deps: Parameters<ReturnType<typeof fake>>[0] = {}): Promise<Runtime> => {
  const probe = await fake(options)(deps)
  if (!probe.available) throw new Error(probe.reason)
  return probe.runtime
}

testRuntime('fake', {
  open: async () => {
    const image = await makeTestImage()
    return {
      runtime: await open(),
      image,
      openFresh: async () => {
        const host = makeFakeHost()
        return { runtime: await open({}, { host }), restart: () => open({}, { host }) }
      },
      killAgent: async (sandbox) => {
        await runCommand(sandbox, ['fake-die']).catch(() => undefined)
      },
      close: () => image[Symbol.asyncDispose](),
    }
  },
})

describe('failures on demand', () => {
  const config = () => configOf({ image: {} as never })

  test('a create that fails leaves nothing', async () => {
    const failure = new Error('no room')
    let left = 1
    await using runtime = await open({ createFails: () => (left-- > 0 ? failure : undefined) })
    await expect(runtime.create(config())).rejects.toBe(failure)
    expect(await runtime.list()).toEqual([])
    await using sandbox = await runtime.create(config())
    expect(await endOf(sandbox, ['true'])).toBe(0)
  })

  test('a sandbox dies where the option says', async () => {
    await using runtime = await open({ dies: ({ argv }) => argv[0] === 'crash' })
    await using sandbox = await runtime.create(config())
    expect(await endOf(sandbox, ['true'])).toBe(0)
    await expect(runCommand(sandbox, ['crash'])).rejects.toMatchObject({ code: 'sandbox_died' })
    expect(await sandbox.ended).toMatchObject({ by: 'itself' })
    expect(await runtime.list()).toEqual([])
  })

  test('a command killed for want of memory is counted', async () => {
    await using runtime = await open()
    await using sandbox = await runtime.create(config())
    expect(await endOf(sandbox, ['fake-oom'])).toBe('signal 9')
    expect((await sandbox.stats()).oomKills).toBe(1)
  })

  test('time passes by the clock that is passed in', async () => {
    const slept: number[] = []
    const clock = { sleep: async (ms: number) => void slept.push(ms) }
    await using runtime = await open({ createMs: 40, startMs: 5 }, { clock })
    await using sandbox = await runtime.create(config())
    await runCommand(sandbox, ['sleep', '3600'])
    expect(slept).toEqual([40, 5, 3_600_000])
  })

  test('an id is used once', async () => {
    await using runtime = await open()
    const id = newId('sandbox')
    await using _first = await runtime.create({ ...config(), id })
    await expect(runtime.create({ ...config(), id })).rejects.toMatchObject({ code: 'sandbox_failed' })
  })
})
