import { execFile } from 'node:child_process'
import { copyFile, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { oci, openImageStore } from '@bramble/runtime'
import { expect, test } from 'vitest'
import { canRunNode, startNodeProcess } from './node-process.ts'

/** An image of one program and nothing else: no passwd, no shell, no directory that anyone expects. */
test('an image from scratch runs its program as root', async ({ skip }) => {
  const reason = await canRunNode(oci())
  if (reason !== undefined) skip(reason)
  await using node = await startNodeProcess()
  const directory = await mkdtemp(join(tmpdir(), 'bramble-scratch-'))
  try {
    const { items } = await node.call<{ items: { digest: string }[] }>('GET', '/api/v1/images')
    const images = await openImageStore({ directory: join(node.dataDirectory, 'images') })
    const base = images.resolve(items[0]?.digest ?? '')
    await mkdir(join(directory, 'rootfs'))
    await copyFile(join(base.rootfs, 'bin/busybox'), join(directory, 'rootfs/busybox'))
    const tar = join(directory, 'scratch.tar')
    await promisify(execFile)('tar', ['-C', join(directory, 'rootfs'), '-cf', tar, '.'])
    await node.call('POST', '/api/v1/images', { rootfsTar: tar, name: 'scratch' })
    const ran = await node.call('POST', '/api/v1/execute', { image: 'scratch', command: ['/busybox', 'id', '-u'] })
    expect(ran).toMatchObject({ status: 'succeeded', stdout: '0\n' })
    const other = await node.call('POST', '/api/v1/execute', {
      image: 'scratch',
      command: ['/busybox'],
      user: 'nobody',
    })
    expect(other).toMatchObject({ status: 'failed', exitCode: 126, message: expect.stringContaining('user') })
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
})
