import { existsSync } from 'node:fs'
import { dataDirectory } from '../data-directory.ts'
import { imagesDirectory } from '../node/images-directory.ts'
import type { NodeFlags } from '../node/node-config.ts'
import type { LiveRun } from './live-run.ts'

/** Runs on a node that is started for this command alone, in this process, and listens nowhere. */
export const inProcess = (flags: NodeFlags): LiveRun =>
  async function* (input, signal) {
    const [{ executionSpecSchema, parse, BrambleError }, { startNode }, { readNodeConfig }, { pino }] =
      await Promise.all([
        import('@bramble/protocol'),
        import('../node/start-node.ts'),
        import('../node/node-config.ts'),
        import('pino'),
      ])
    const spec = parse(executionSpecSchema, input)
    const config = readNodeConfig(flags, dataDirectory())
    await makeFirstImage(config.dataDirectory, signal)
    const log = pino({ level: flags.logLevel ?? 'silent' }, pino.destination(2))
    await using node = await startNode({ config, log, listen: false })
    signal.throwIfAborted()
    const execution = node.engine.execute(spec, { tenant: 'default', keyId: 'local', signal, stream: true })
    // Told by the iteration; the promise must not be an unhandled rejection beside it.
    execution.result.catch(() => undefined)
    for await (const event of execution) {
      if (event.type === 'error') throw BrambleError.fromProblem(event.error)
      if (event.type === 'stdout' || event.type === 'stderr' || event.type === 'result') yield event
    }
  }

/** The very first run on a host finds no images: the base image takes a moment to make, so it is made. */
const makeFirstImage = async (directory: string, signal: AbortSignal): Promise<void> => {
  if (existsSync(imagesDirectory(directory))) return
  const { baseImageStep } = await import('../setup/base-image-step.ts')
  const plan = await baseImageStep({ dataDirectory: directory }).plan()
  if (plan === undefined || plan.blocked !== undefined) return
  process.stderr.write(`bramble: the first run on this host: ${plan.does}\n`)
  await plan.run(() => undefined, signal)
}
