import { newId } from '@bramble/protocol'
import { fake, type Sandbox } from '@bramble/runtime'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createEndings } from './endings.ts'
import { emptyLoad } from './load.ts'
import { type EngineNotice, silentLog, systemClock } from './options.ts'
import { createQuiet } from './quiet.ts'
import { namedImage } from './testing.ts'

const setUp = async () => {
  const probe = await fake()()
  if (!probe.available) throw new Error(probe.reason)
  const { runtime } = probe
  const load = emptyLoad()
  const notices: EngineNotice[] = []
  const errors: string[] = []
  const quiet = createQuiet({ clock: systemClock })
  onTestFinished(async () => {
    quiet.close()
    await runtime.close()
  })
  let gone = 0
  const endings = createEndings({
    load,
    maxDestroying: 2,
    maxPatient: 100,
    quiet,
    clock: systemClock,
    log: { ...silentLog, error: (_, message) => errors.push(message) },
    notice: (notice) => notices.push(notice),
    onGone: () => gone++,
  })
  const make = async (destroy?: (real: () => Promise<void>) => Promise<void>): Promise<Sandbox> => {
    const resources = { cpus: 1, memoryMb: 64, diskMb: 10, pids: 10 }
    const sandbox = await runtime.create({ id: newId('sandbox'), image: namedImage('base'), resources })
    load.boxesMb += resources.memoryMb
    return destroy ? { ...sandbox, destroy: () => destroy(sandbox.destroy) } : sandbox
  }
  return { endings, load, notices, errors, make, gone: () => gone }
}

describe('endings', () => {
  test('destroy a few at once, and give back what each held', async () => {
    const { endings, load, make, gone } = await setUp()
    let now = 0
    let most = 0
    const slow = async (real: () => Promise<void>) => {
      most = Math.max(most, ++now)
      await new Promise(setImmediate)
      now--
      await real()
    }
    for (let i = 0; i < 6; i++) endings.bury(await make(slow))
    expect(load).toEqual({ boxesMb: 384, endingMb: 384, ending: 6 })
    await endings.drain()
    expect([most, gone()]).toEqual([2, 6])
    expect(load).toEqual({ boxesMb: 0, endingMb: 0, ending: 0 })
  })

  test('a sandbox that cannot be destroyed is logged and counted, and holds nobody up', async () => {
    const { endings, load, notices, errors, make } = await setUp()
    endings.bury(await make(() => Promise.reject(new Error('busy'))))
    endings.bury(await make())
    await endings.drain()
    expect(errors).toHaveLength(1)
    expect(notices.map(({ type }) => type).sort()).toEqual(['sandboxDestroyed', 'sandboxNotDestroyed'])
    expect(load.ending).toBe(0)
  })

  test('what still runs a command does not wait for a quiet moment', async () => {
    const { endings, make } = await setUp()
    const sandbox = await make()
    endings.bury(sandbox, { now: true })
    expect(await sandbox.ended).toEqual({ by: 'destroy' })
  })
})
