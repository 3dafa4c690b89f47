import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { SANDBOX_AGENT_PATH } from '../agent/agent-binary.ts'
import { sandboxFiles } from '../files/create-sandbox-files.ts'
import { bytesOf, pieces } from '../files/testing/file-arena.ts'
import { configOf, useSubject } from '../testing/subject.ts'
import { makeTestImage, outputOf } from '../testing.ts'
import { oci } from './oci.ts'
import { endLauncher } from './testing/oci-nodes.ts'

describe('files of a sandbox', () => {
  const subject = useSubject('oci', {
    open: async () => {
      const directory = await mkdtemp(join(tmpdir(), 'bramble-oci-files-'))
      const probed = await oci({ diskBytes: 1024 ** 3 })({ dataDirectory: directory })
      if (!probed.available) {
        await rm(directory, { recursive: true, force: true })
        return { skip: probed.reason }
      }
      const image = await makeTestImage()
      return {
        runtime: probed.runtime,
        image,
        openFresh: () => Promise.reject(new Error('one is enough')),
        killAgent: () => Promise.reject(new Error('it lives')),
        close: async () => {
          await endLauncher(directory)
          await image[Symbol.asyncDispose]()
          await rm(directory, { recursive: true, force: true })
        },
      }
    },
  })

  test('belong to its users, and what is of the image is like any other', async (context) => {
    const { runtime, ...rest } = subject(context)
    await using sandbox = await runtime.create(configOf(rest))
    const files = sandboxFiles(sandbox.agent, { user: 'app' })
    const root = { user: 'root' }
    const mine = await files.write('home/app/a/b', Buffer.from('mine'))
    expect(mine).toMatchObject({ uid: 1000, gid: 1000, mode: 0o644, path: Buffer.from('/home/app/a/b') })
    await files.write('/root/secret', Buffer.from('x'), { ...root, mode: 0o600 })
    const denied = { code: 'file_refused', detail: expect.stringContaining('Permission denied') }
    await expect(files.read('/root/secret')).rejects.toMatchObject(denied)
    await expect(files.write('/etc/passwd', Buffer.from('x'))).rejects.toMatchObject(denied)
    await expect(files.remove('/etc', { recursive: true })).rejects.toMatchObject(denied)
    await expect(files.setAttributes('/etc/passwd', { mode: 0o777 })).rejects.toMatchObject({ code: 'file_refused' })
    await expect(files.writeTree('/etc', files.readTree('/home/app'))).rejects.toMatchObject(denied)
    await files.write('/home/app/a/b', Buffer.from('of root'), root)
    expect(await files.stat('/home/app/a/b')).toMatchObject({ uid: 1000, sizeBytes: 7 })

    // Directories of the image cannot be renamed in an overlay: they are copied.
    const before = await outputOf(sandbox, 'cd /etc; find . | sort; stat -c "%a %u %Y" .')
    await files.move('/etc', '/var/tmp/etc', root)
    expect(await outputOf(sandbox, 'cd /var/tmp/etc; find . | sort; stat -c "%a %u %Y" .')).toBe(before)
    await expect(files.stat('/etc', root)).rejects.toMatchObject({ code: 'file_not_found' })
    await files.remove('/usr', { recursive: true, user: 'root' })
    await expect(files.stat('/usr', root)).rejects.toMatchObject({ code: 'file_not_found' })
    await expect(files.remove('/', { recursive: true, user: 'root' })).rejects.toMatchObject({ code: 'file_refused' })
  })

  test('are uploaded without a trace until they are whole, and as far as there is room', async (context) => {
    const { runtime, ...rest } = subject(context)
    await using sandbox = await runtime.create(configOf(rest))
    const files = sandboxFiles(sandbox.agent)
    await files.write('/tmp/file', Buffer.from('old'))
    const controller = new AbortController()
    let names: string[] = []
    const source = async function* () {
      yield Buffer.alloc(1 << 20, 'x')
      names = (await files.list('/tmp')).items.map(({ path }) => path.toString())
      controller.abort(new Error('enough'))
    }
    await expect(files.write('/tmp/file', source(), { signal: controller.signal })).rejects.toThrow('enough')
    expect(names).toEqual(['/tmp/file'])
    const endless = async function* () {
      for (;;) yield Buffer.alloc(1 << 20, 'x')
    }
    const full = { code: 'file_refused', detail: expect.stringMatching(/No space left|quota/i) }
    await expect(files.write('/tmp/file', endless())).rejects.toMatchObject(full)
    expect(await bytesOf((await files.read('/tmp/file')).body)).toEqual(Buffer.from('old'))
    expect((await files.list('/tmp')).items).toHaveLength(1)
    await files.write('/tmp/file', Buffer.alloc(8 << 20, 'y'))
  })

  test('come as a tree of all that is no making of the kernel', async (context) => {
    const { runtime, ...rest } = subject(context)
    await using sandbox = await runtime.create(configOf(rest))
    const files = sandboxFiles(sandbox.agent)
    const directory = await mkdtemp(join(tmpdir(), 'bramble-tree-'))
    try {
      await writeFile(join(directory, 'all.tar'), files.readTree('/'))
      const { stdout } = await promisify(execFile)('tar', ['-tf', join(directory, 'all.tar')])
      const names = stdout.split('\n')
      expect(names).toEqual(expect.arrayContaining(['./', 'etc/passwd', 'home/app/', 'proc/', 'bin/busybox']))
      expect(names.filter((name) => /^(proc|sys)\/./.test(name))).toEqual([])
    } finally {
      await rm(directory, { recursive: true, force: true })
    }
    expect(await files.writeTree('/tmp/copy', files.readTree('/home'))).toMatchObject({ skipped: 0 })
  })

  test('are served by SFTP', async (context) => {
    const { runtime, ...rest } = subject(context)
    await using sandbox = await runtime.create(configOf(rest))
    const command = sandbox.agent.exec({ argv: [SANDBOX_AGENT_PATH, 'sftp'], user: 'app', stdin: 'pipe' })
    await command.write(await bytesOf(pieces(Buffer.from([0, 0, 0, 5, 1, 0, 0, 0, 3]))))
    command.end()
    let answer = Buffer.alloc(0)
    for await (const event of command) {
      if (event.type === 'stdout') answer = Buffer.concat([answer, event.data])
      if (event.type === 'exit') expect(event).toMatchObject({ kind: 'exited', code: 0 })
    }
    expect(answer.subarray(4, 9)).toEqual(Buffer.from([2, 0, 0, 0, 3]))
  })
})
