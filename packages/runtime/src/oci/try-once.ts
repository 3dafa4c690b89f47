import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { newId } from '@bramble/protocol'
import type { LocalImage } from '../images/image-store.ts'
import type { Runtime } from '../runtime.ts'

/** Runs the agent's own version in a sandbox of an empty image. Returns what went wrong, or undefined. */
export const tryOnce = async (runtime: Runtime): Promise<string | undefined> => {
  const rootfs = await mkdtemp(join(tmpdir(), 'bramble-probe-'))
  const image: LocalImage = {
    digest: `sha256:${'0'.repeat(64)}`,
    names: [],
    source: 'probe',
    sizeBytes: 0,
    createdAt: new Date(0).toISOString(),
    config: { env: {}, workdir: '/', user: 'root' },
    rootfs,
  }
  try {
    const resources = { cpus: 1, memoryMb: 64, diskMb: 16, pids: 16 }
    await using sandbox = await runtime.create({ id: newId('sandbox'), image, resources })
    for await (const event of sandbox.agent.exec({ argv: ['/.bramble/agent', '--version'] }))
      if (event.type === 'exit' && (event.kind !== 'exited' || event.code !== 0))
        return `the first command ${JSON.stringify(event)}`
    return undefined
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  } finally {
    await rm(rootfs, { recursive: true, force: true })
  }
}
