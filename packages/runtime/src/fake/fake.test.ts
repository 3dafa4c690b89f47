import { newId } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import type { Runtime } from '../runtime.ts'
import { followLog } from '../testing/follow-log.ts'
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
        return {
          runtime: await open({}, { host }),
          restart: () => open({}, { host }),
          reopen: () => open({}, { host }),
        }
      },
      killAgent: async (sandbox) => {
        await runCommand(sandbox, ['fake-die']).catch(() => undefined)
      },
      refusesMemoryOf: async ({ agent }) => {
        agent.log.start({ argv: ['wc'], stdin: 'pipe', env: { PATH: '/bin' } }, 'wc')
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

describe('kept sandboxes', () => {
  const config = () => configOf({ image: {} as never }, { layer: 'one' })

  test('named commands and events outlive the connection; nothing of them is lost', async () => {
    const host = makeFakeHost()
    const first = await open({}, { host })
    const kept = config()
    const sandbox = await first.create(kept)
    const { log } = sandbox.agent
    log.start({ argv: ['sh', '-c', 'read line; echo "got $line"'], stdin: 'pipe', env: { PATH: '/bin' } }, 'waits')
    expect(() => log.start({ argv: ['true'] }, 'waits')).toThrow(expect.objectContaining({ code: 'conflict' }))
    expect(await endOf(sandbox, ['/.bramble/agent', 'emit', 'progress', '{"n":1}'])).toBe(0)
    expect(log.nextSeq).toBe(3)
    await first.close()

    await using next = await open({}, { host })
    const again = await next.attach(kept)
    const { firstSeq, firstNewSeq, commands } = again.agent.log
    expect({ firstSeq, firstNewSeq, names: [...commands.keys()] }).toEqual({
      firstSeq: 1,
      firstNewSeq: 3,
      names: ['waits'],
    })
    const said: string[] = []
    const done = Promise.withResolvers<void>()
    again.agent.log.read((entry) => {
      const text = 'emitted' in entry ? entry.emitted.toString() : entry.event.type
      said.push(`${entry.seq} ${text}`)
      if (text === 'exit') done.resolve()
    })
    await commands.get('waits')?.write(Buffer.from('it\n'))
    await done.promise
    expect(
      said
        .slice(0, 2)
        .map((line) => line.slice(2))
        .sort(),
    ).toEqual(['started', '{"name":"progress","data":{"n":1}}'])
    expect(said.slice(2)).toEqual(['3 stdout', '4 exit'])
    expect(commands.size).toBe(0)
    await again.agent.close()
    expect(await endOf(await next.attach(kept), ['true'])).toBe(0)
  })

  test('a command that says much waits until what it said is acknowledged', async () => {
    await using runtime = await open()
    const sandbox = await runtime.create(config())
    const { log } = sandbox.agent
    const all = 4 * 1024 * 1024
    let bytes = 0
    let last = 0
    const full = Promise.withResolvers<void>()
    const done = Promise.withResolvers<void>()
    log.read((entry) => {
      last = entry.seq
      if (!('event' in entry)) return
      if (entry.event.type === 'stdout') bytes += entry.event.data.length
      if (bytes > 190 * 1024) full.resolve()
      if (entry.event.type === 'exit') done.resolve()
      if (acknowledging) log.acknowledge(entry.seq)
    })
    let acknowledging = false
    log.start({ argv: ['head', '-c', String(all), '/dev/zero'], env: { PATH: '/bin' } }, 'much')
    await full.promise
    expect(await endOf(sandbox, ['true'])).toBe(0)
    expect(bytes).toBeLessThan(512 * 1024)
    acknowledging = true
    log.acknowledge(last)
    await done.promise
    expect(bytes).toBe(all)
    await sandbox.destroy()
  })
})

test('memory that was read of one host continues on another of its kind, and on no other', async () => {
  const here = makeFakeHost()
  await using runtime = await open({}, { host: here })
  const sandbox = await runtime.create(configOf({ image: {} as never }))
  const script = 'kept=memory; read line; echo $kept $line'
  sandbox.agent.log.start({ argv: ['sh', '-c', script], stdin: 'pipe', env: { PATH: '/bin' } }, 'asks')
  await sandbox.seal?.({ name: 'one', memory: true })
  const store = runtime.seals
  const info = await store?.memory('one')
  if (!store || !info) throw new Error('no memory')
  const source = {
    entries: store.entries('one'),
    read: (path: string) => store.read('one', path),
    diskBytes: 1024,
    memory: { info, read: (file: string) => store.readMemory('one', file) },
  }
  await using stranger = await open({}, { host: makeFakeHost() })
  await expect(stranger.seals?.write('two', source)).rejects.toMatchObject({ code: 'snapshot_incompatible' })
  await using there = await open({}, { host: makeFakeHost(here) })
  await there.seals?.write('two', { ...source, entries: store.entries('one') })
  const from = { seal: 'two', memory: true }
  await using copy = await there.create({ ...configOf({ image: {} as never }), from })
  const log = followLog(copy)
  await copy.agent.log.commands.get('asks')?.write(Buffer.from('moved\n'))
  await log.until(() => log.text('asks') === 'memory moved\n')
})
