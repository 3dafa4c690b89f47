import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ExecRequestBody, type ExecRequestInput, execRequestSchema, instanceSpecSchema } from '@bramble/protocol'
import { type LocalImage, oci, type Runtime } from '@bramble/runtime'
import type { Engine } from '../engine.ts'
import { openEngine } from '../open-engine.ts'
import type { EngineNotice, OpenEngineOptions } from '../options.ts'
import { memoryImages } from '../testing.ts'
import type { InstanceLease } from './instances.ts'

const DISK_BYTES = 4 * 1024 ** 3

export const OWNER = { tenant: 'acme', keyId: 'key_test' }

/** An engine with the oci runtime, as a node has it; closing it leaves its instances running. */
export interface InstanceNode {
  readonly engine: Engine
  readonly runtime: Runtime
  readonly notices: EngineNotice[]
  /** Resolves when `condition` holds; it is asked after each notice. */
  until(condition: () => boolean): Promise<void>
  close(): Promise<void>
}

/** Why there is none on this host. Throws where `REQUIRE_DRIVERS` says that there must be one. */
export type NoNode = { readonly skip: string }

export const openInstanceNode = async (
  directory: string,
  image: LocalImage,
  options: Partial<OpenEngineOptions> = {},
): Promise<InstanceNode | NoNode> => {
  const probe = await oci({ diskBytes: DISK_BYTES })({ dataDirectory: directory })
  if (!probe.available) {
    if (process.env.REQUIRE_DRIVERS?.split(',').includes('oci')) throw new Error(probe.reason)
    return { skip: probe.reason }
  }
  const { runtime } = probe
  if (!runtime.capabilities.keep) {
    await runtime.close()
    return { skip: 'this host keeps no sandboxes' }
  }
  const notices: EngineNotice[] = []
  const asking = new Set<() => void>()
  const engine = await openEngine({
    dataDirectory: directory,
    runtimes: [runtime],
    images: memoryImages({ ...image, names: ['base'] }),
    ...options,
    limits: { minReady: 0, maxMemoryMb: 100_000, ...options.limits },
    onNotice(notice) {
      notices.push(notice)
      // It comes in the middle of a change: ask after it.
      if (asking.size > 0)
        setImmediate(() => {
          for (const ask of [...asking]) ask()
        })
    },
  })
  return {
    engine,
    runtime,
    notices,
    until: (condition) =>
      new Promise((resolve) => {
        const ask = (): void => {
          if (!condition()) return
          asking.delete(ask)
          resolve()
        }
        asking.add(ask)
        ask()
      }),
    async close() {
      await engine.close({ graceMs: 0 })
      await runtime.close()
    },
  }
}

/** Removes every instance, so that nothing outlives a test. */
export const removeAll = async ({ engine }: InstanceNode, tenants = [OWNER.tenant]): Promise<void> => {
  for (const tenant of tenants) {
    const { items } = await engine.instances.list({ tenant, limit: 500 })
    await Promise.all(items.map(({ id }) => engine.instances.remove(id, tenant).catch(() => {})))
  }
}

export const makeDirectory = async (): Promise<{ path: string } & AsyncDisposable> => {
  const path = await mkdtemp(join(tmpdir(), 'bramble-instances-'))
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}

export const instanceSpec = (input: Parameters<typeof instanceSpecSchema.parse>[0] = {}) =>
  instanceSpecSchema.parse(input)

export const request = (input: ExecRequestInput | string | string[]): ExecRequestBody =>
  execRequestSchema.parse(typeof input === 'string' || Array.isArray(input) ? { command: input } : input)

/** Runs a command to its end. */
export const run = (lease: InstanceLease, input: ExecRequestInput | string | string[]) =>
  lease.exec(request(input), { signal: new AbortController().signal, stream: false }).result
