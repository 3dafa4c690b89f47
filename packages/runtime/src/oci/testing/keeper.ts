/** A process to kill in a node's stead: it makes a kept sandbox and another, starts a command in the first, says so, waits. */
import { newId } from '@bramble/protocol'
import type { LocalImage } from '../../images/image-store.ts'
import type { SandboxConfig } from '../../runtime.ts'
import { outputOf } from '../../testing/run-command.ts'
import { oci } from '../oci.ts'

const [dataDirectory = '', layer = '', image = '', diskBytes = ''] = process.argv.slice(2)
const probed = await oci({ binary: 'crun', diskBytes: Number(diskBytes) })({ dataDirectory })
if (!probed.available) throw new Error(probed.reason)
const { runtime } = probed
const configOf = (keep?: SandboxConfig['keep']): SandboxConfig => ({
  id: newId('sandbox'),
  image: JSON.parse(image) as LocalImage,
  resources: { cpus: 1, memoryMb: 128, diskMb: 64, pids: 64 },
  keep,
})
const kept = configOf({ layer })
const sandbox = await runtime.create(kept)
await runtime.create(configOf())
await outputOf(sandbox, 'echo kept > /root/file')
sandbox.agent.log.start({ argv: ['sh', '-c', 'echo begun; exec sleep 100000'], env: { PATH: '/bin' } }, 'sleeper')
await new Promise<void>((resolve) => {
  sandbox.agent.log.read((entry) => {
    if ('event' in entry && entry.event.type === 'stdout') resolve()
  })
})
process.stdout.write(`${JSON.stringify(kept)}\n`)
setInterval(() => {}, 60_000)
