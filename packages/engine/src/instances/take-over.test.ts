import { BrambleError } from '@bramble/protocol'
import { fake, makeFakeHost, type Runtime } from '@bramble/runtime'
import { expect, onTestFinished, test } from 'vitest'
import { openEngine } from '../open-engine.ts'
import { memoryImages, namedImage } from '../testing.ts'
import { instanceSpec, makeDirectory, OWNER } from './testing.ts'

const { tenant } = OWNER

/** A node on a host that outlives it. `change` is what is the matter with its runtime. */
const open = async (
  directory: string,
  host: ReturnType<typeof makeFakeHost>,
  change: (runtime: Runtime) => Partial<Runtime> = () => ({}),
) => {
  const probe = await fake()({ host })
  if (!probe.available) throw new Error(probe.reason)
  const { runtime } = probe
  const engine = await openEngine({
    dataDirectory: directory,
    runtimes: [{ ...runtime, ...change(runtime) }],
    images: memoryImages(namedImage('base')),
    limits: { minReady: 0, maxMemoryMb: 100_000 },
  })
  const close = async (): Promise<void> => {
    await engine.close({ graceMs: 0 })
    await runtime.close()
  }
  onTestFinished(close)
  return { instances: engine.instances, close }
}

test.for<[string, (runtime: Runtime) => Partial<Runtime>]>([
  [
    'whose agent does not answer',
    (runtime) => ({
      attach: (config, options) =>
        config.hostname === 'box'
          ? Promise.reject(new BrambleError('sandbox_failed', { detail: 'no hello' }))
          : runtime.attach(config, options),
    }),
  ],
  [
    'that cannot go on',
    (runtime) => ({
      attach: async (config, options) => {
        const sandbox = await runtime.attach(config, options)
        if (config.hostname !== 'box') return sandbox
        return Object.create(sandbox, {
          paused: { value: true },
          resume: { value: () => Promise.reject(new BrambleError('sandbox_failed', { detail: 'frozen' })) },
        })
      },
    }),
  ],
])('a sandbox %s is not left on the layer of its instance', async ([, change]) => {
  await using directory = await makeDirectory()
  const host = makeFakeHost()
  const before = await open(directory.path, host)
  const { id } = await before.instances.create(instanceSpec({ name: 'box' }), OWNER)
  await before.instances.create(instanceSpec({ name: 'other' }), OWNER)
  await before.close()
  expect(host.sandboxes.size).toBe(2)

  const { instances } = await open(directory.path, host, change)
  await expect(instances.use(id, tenant)).rejects.toMatchObject({ code: 'instance_stopped' })
  expect(await instances.get(id, tenant)).toMatchObject({ status: 'stopped' })
  expect(host.sandboxes.size).toBe(1)
  using other = await instances.use('other', tenant)
  expect(other.agent).toBeDefined()
  expect(await instances.start(id, tenant)).toMatchObject({ status: 'running' })
  await instances.remove(id, tenant)
})
