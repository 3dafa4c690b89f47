import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { Engine } from '@bramble/engine'
import { executionSpecSchema, type NodeReport, toBrambleError } from '@bramble/protocol'

const PROBE_TIMEOUT_MS = 5000
const MAX_GPUS = 64
const run = promisify(execFile)

/** Rows of `nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits`. */
export const gpusIn = (csv: string): NodeReport['gpus'] =>
  csv
    .split('\n')
    .flatMap((line) => {
      const [, model = '', memory = ''] = /^\s*(.+?)\s*,\s*(\d+)\s*$/.exec(line) ?? []
      return model === '' ? [] : [{ model: model.slice(0, 64), memoryMb: Number(memory) }]
    })
    .slice(0, MAX_GPUS)

/** Whether this engine would give a sandbox any. */
const isOffered = (engine: Engine, tenant: string): boolean => {
  try {
    const spec = executionSpecSchema.parse({ command: ['true'], resources: { gpus: 1 } })
    const execution = engine.execute(spec, { tenant, keyId: tenant })
    execution.cancel()
    return true
  } catch (error) {
    return toBrambleError(error).code !== 'unsupported'
  }
}

/** The GPUs of this host that commands can have here. A driver that hangs is one that is not there. */
export const probeGpus = async (engine: Engine, tenant: string): Promise<NodeReport['gpus']> => {
  if (!isOffered(engine, tenant)) return []
  const query = ['--query-gpu=name,memory.total', '--format=csv,noheader,nounits']
  const options = { timeout: PROBE_TIMEOUT_MS, killSignal: 'SIGKILL' as const }
  return await run('nvidia-smi', query, options).then(
    ({ stdout }) => gpusIn(stdout),
    () => [],
  )
}
