/**
 * What the engine itself costs an execution of `true` from a warm pool, over the fake runtime, whose commands cost
 * nearly nothing: the same command by the agent alone, then by the engine. `node bench/engine.ts [executions]`.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { defaultEngineLimits, openEngine } from '@bramble/engine'
import { executionSpecSchema, newId } from '@bramble/protocol'
import { fake } from '@bramble/runtime'
import { image, images, measure, percentiles } from './measure-calls.ts'

const EXECUTIONS = Number(process.argv[2] ?? 2000)

const probe = await fake()()
if (!probe.available) throw new Error(probe.reason)
const { runtime } = probe
const spec = executionSpecSchema.parse({ command: ['true'] })

const { cpus, memoryMb, diskMb, pids } = spec.resources
const alone = await measure(async () => {
  const sandbox = await runtime.create({ id: newId('sandbox'), image, resources: { cpus, memoryMb, diskMb, pids } })
  for await (const event of sandbox.agent.exec({ argv: ['true'] })) if (event.type === 'exit') break
  await sandbox.stats()
  await sandbox.destroy()
}, EXECUTIONS)

const directory = await mkdtemp(join(tmpdir(), 'bramble-bench-engine-'))
const engine = await openEngine({
  dataDirectory: directory,
  runtimes: [runtime],
  images,
  limits: { ...defaultEngineLimits({ memoryMb: 1024 * 1024 }), maxPooled: 1000 },
})
try {
  await engine.pools.prewarm({ image: 'base', count: 200, runtime: 'auto', resources: spec.resources })
  const context = { tenant: 'bench', keyId: 'bench' }
  const pooled = await measure(async () => {
    await engine.execute(spec, context).result
  }, EXECUTIONS)
  const clients = 8
  const began = performance.now()
  const each = Math.ceil(EXECUTIONS / clients)
  const client = async (): Promise<void> => {
    for (let i = 0; i < each; i++) await engine.execute(spec, context).result
  }
  await Promise.all(Array.from({ length: clients }, client))
  const perSecond = Math.round((each * clients * 1000) / (performance.now() - began))
  const rows = {
    'agent alone (make, exec, stats, destroy)': percentiles(alone),
    'engine, one client': percentiles(pooled),
  }
  console.table(
    Object.fromEntries(
      Object.entries(rows).map(([name, row]) => [
        name,
        Object.fromEntries(Object.entries(row).map(([label, ms]) => [`${label} ms`, Number(ms.toFixed(3))])),
      ]),
    ),
  )
  const { hits, misses } = engine.pools.list()[0] ?? { hits: 0, misses: 0 }
  console.log(`${clients} clients: ${perSecond} executions/s; pool hits ${hits}, misses ${misses}`)
} finally {
  await engine.close({ graceMs: 0 })
  await runtime.close()
  await rm(directory, { recursive: true, force: true })
}
