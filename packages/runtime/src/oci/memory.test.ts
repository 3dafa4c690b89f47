import { cp, rename } from 'node:fs/promises'
import { newId } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { endOf } from '../testing.ts'
import { launcherBinaryPath } from './launcher-process.ts'
import { hostnameImage, usersImage } from './memory-images.ts'
import { useOciNodes } from './testing/oci-nodes.ts'

const nodes = useOciNodes()

test('memory is restored by a launcher whose program was replaced while it ran', async (context) => {
  const directory = await nodes.directory(context)
  const runtime = await nodes.open(directory)
  if (!runtime.capabilities.checkpoint) context.skip('no CRIU on this host')
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
