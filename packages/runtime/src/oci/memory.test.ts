import { cp, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { newId } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { agentBinaryPath } from '../agent/agent-binary.ts'
import { skip } from '../testing/subject.ts'
import { endOf } from '../testing.ts'
import { launcherBinaryPath } from './launcher-process.ts'
import { hostnameImage, usersImage } from './memory-images.ts'
import { useOciNodes } from './testing/oci-nodes.ts'

const nodes = useOciNodes()

test('memory is restored by a launcher whose program was replaced while it ran', async (context) => {
  const directory = await nodes.directory(context)
  const runtime = await nodes.open(directory)
  if (!runtime.capabilities.checkpoint) skip(context, 'no CRIU on this host')
  const config = {
    image: nodes.image,
    resources: { cpus: 1, memoryMb: 128, diskMb: 64, pids: 64 },
  }
  await using sandbox = await runtime.create({ ...config, id: newId('sandbox') })
  await sandbox.seal?.({ name: 'state', memory: true })
  // As a build does it: another file under the same name.
  const binary = launcherBinaryPath()
  await cp(binary, `${binary}.test`, { preserveTimestamps: true })
  await rename(`${binary}.test`, binary)
  await using copy = await runtime.create({
    ...config,
    id: newId('sandbox'),
    from: { seal: 'state', memory: true },
  })
  expect(await endOf(copy, ['true'])).toBe(0)
})

test('memory is restored with the agent that it has, of another release, as long as that is there', async (context) => {
  const directory = await nodes.directory(context)
  const config = {
    image: nodes.image,
    resources: { cpus: 1, memoryMb: 128, diskMb: 64, pids: 64 },
  }
  const first = await nodes.open(directory)
  if (!first.capabilities.checkpoint) skip(context, 'no CRIU on this host')
  const sandbox = await first.create({ ...config, id: newId('sandbox') })
  await sandbox.seal?.({ name: 'state', memory: true })
  await sandbox.destroy()
  await first.close()

  // What follows the sections of a program is nothing to those who run it.
  const agentPath = join(nodes.base, 'another-agent')
  await writeFile(agentPath, Buffer.concat([await readFile(agentBinaryPath()), Buffer.alloc(100)]), { mode: 0o755 })
  const second = await nodes.open(directory, { agentPath })
  const agent = (await second.seals?.memory('state'))?.requires.agent ?? ''
  expect(second.seals?.offers?.agents).toContain(agent)
  expect(second.seals?.offers?.agents).toHaveLength(2)
  const from = { seal: 'state', memory: true }
  await using copy = await second.create({ ...config, id: newId('sandbox'), from })
  expect(await endOf(copy, ['true'])).toBe(0)
  // It has the agent of what it continues, and so have those that continue it.
  await copy.seal?.({ name: 'again', memory: true })
  expect((await second.seals?.memory('again'))?.requires.agent).toBe(agent)

  const layer = join(directory, 'oci', `agent-${agent}`)
  await rename(layer, `${layer}.away`)
  await expect(second.create({ ...config, id: newId('sandbox'), from })).rejects.toMatchObject({
    code: 'snapshot_incompatible',
  })
})

test('the images of a new identity are as CRIU reads them', () => {
  const header = Buffer.from('0102030405060708', 'hex')
  const image = Buffer.concat([header, Buffer.from([2, 0, 0, 0, 0xff, 0xff])])
  // Two messages of 9 bytes (fields 1 and 2): inner 0, outer 300 (ac 02), count 65,536 (80 80 04).
  const extent = '080010ac0218808004'
  expect(usersImage(image, 300, 65_536).toString('hex')).toBe(
    ['0102030405060708', '16000000', '0a09', extent, '1209', extent].join(''),
  )
  expect(hostnameImage(image, 'web').toString('latin1')).toBe(
    `${header.toString('latin1')}\x0d\x00\x00\x00\x0a\x03web\x12\x06(none)`,
  )
})
