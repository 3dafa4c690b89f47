import { rmSync } from 'node:fs'
import { oci } from '@bramble/runtime'
import { launcherOf } from '@bramble/runtime/testing'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { hostProcesses, sandboxCgroups, until } from './leftovers.ts'
import { canRunNode, type NodeProcess, startNodeProcess } from './node-process.ts'

const EXECUTIONS = 50
/** A word that only the commands of this file have on their command line. */
const MARK = `bramble-crash-${process.pid}`

const marked = () => hostProcesses().filter(({ command }) => command.includes(MARK) && !command.includes('vitest'))

describe('kill -9 of a node with an instance', () => {
  let skip: string | undefined
  beforeAll(async () => {
    skip = await canRunNode(oci())
  })

  test('the instance runs on, and the next node has it', async ({ skip: skipTest }) => {
    if (skip) skipTest(skip)
    const node = await startNodeProcess()
    onTestFinished(() => {
      // Of a test that failed.
      const left = launcherOf(node.dataDirectory)
      if (left !== undefined) process.kill(left, 'SIGTERM')
    })
    const exec = async (on: NodeProcess, command: string): Promise<string> =>
      (await on.call<{ stdout: string }>('POST', `/api/v1/instances/lasting/exec`, { command })).stdout
    await node.call('POST', '/api/v1/instances', { name: 'lasting' })
    const pid = (await exec(node, `echo kept > /root/file; sleep 100000 >/dev/null 2>&1 & echo $!`)).trim()
    await node.kill('SIGKILL')
    await using next = await startNodeProcess({}, node.dataDirectory)
    expect(await next.call('GET', '/api/v1/instances/lasting')).toMatchObject({ status: 'running' })
    expect(await exec(next, `cat /root/file; cat /proc/${pid}/comm`)).toBe('kept\nsleep\n')
    await next.kill('SIGTERM')

    const third = await startNodeProcess({}, node.dataDirectory)
    expect(await exec(third, `cat /proc/${pid}/comm`)).toBe('sleep\n')
    await third.call('DELETE', '/api/v1/instances/lasting')
    const launcher = launcherOf(node.dataDirectory)
    expect(launcher).toBeDefined()
    await third.kill('SIGTERM')
    await until('the launcher went', () => launcherOf(node.dataDirectory) === undefined)
  })
})

describe('kill -9 in the middle of 50 executions', () => {
  let skip: string | undefined
  beforeAll(async () => {
    skip = await canRunNode(oci())
  })
  let directory: string | undefined
  afterAll(() => {
    if (directory) rmSync(directory, { recursive: true, force: true })
  })

  /** A node with every execution accepted, and as many running as it runs at once. */
  const busyNode = async (): Promise<{ node: NodeProcess; cgroups: string[] }> => {
    const before = new Set(sandboxCgroups())
    const node = await startNodeProcess({}, directory)
    directory = node.dataDirectory
    for (let i = 0; i < EXECUTIONS; i++) {
      const { call } = node.client()
      call('POST', '/api/v1/execute', {
        command: ['sh', '-c', `: ${MARK}; sleep 600; :`],
        resources: { timeoutMs: 900_000 },
      }).catch(() => {})
    }
    await until('some executions run', () => marked().length >= 4)
    return { node, cgroups: sandboxCgroups().filter((path) => !before.has(path)) }
  }

  const serves = async (node: NodeProcess): Promise<void> => {
    const result = await node.call<{ stdout: string }>('POST', '/api/v1/execute', { command: ['echo', 'again'] })
    expect(result.stdout).toBe('again\n')
  }

  test('of the node: its launcher removes every sandbox, and the next start serves', async ({ skip: skipTest }) => {
    if (skip) skipTest(skip)
    const { node, cgroups } = await busyNode()
    expect(cgroups.length).toBeGreaterThanOrEqual(4)
    await node.kill('SIGKILL')
    await until('no process of a sandbox is left', () => marked().length === 0)
    await until('no cgroup of a sandbox is left', () => !sandboxCgroups().some((path) => cgroups.includes(path)))
    const next = await startNodeProcess({}, directory)
    await serves(next)
    await next.kill('SIGTERM')
  })

  test('of the node and its launcher: the next start removes what is left, and serves', async ({ skip: skipTest }) => {
    if (skip) skipTest(skip)
    const { node, cgroups } = await busyNode()
    const launcher = launcherOf(node.dataDirectory)
    expect(launcher).toBeDefined()
    process.kill(Number(launcher), 'SIGKILL')
    await node.kill('SIGKILL')
    // The agents end their commands with their connections; they, and what the host holds for them, are still there.
    expect(sandboxCgroups().filter((path) => cgroups.includes(path)).length).toBeGreaterThanOrEqual(4)
    const next = await startNodeProcess({}, directory)
    expect(marked()).toEqual([])
    expect(sandboxCgroups().filter((path) => cgroups.includes(path))).toEqual([])
    await serves(next)
    await next.kill('SIGTERM')
    await until('the node took its own sandboxes along', () => {
      const [ours] = cgroups[0]?.split('/') ?? []
      return !sandboxCgroups().some((path) => path.startsWith(`${ours}/`))
    })
  })
})
