import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { agentBinaryPath } from '@bramble/runtime'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { nodeFile } from '../data-directory.ts'

const MAIN = new URL('../main.ts', import.meta.url).pathname
const missing = existsSync(agentBinaryPath()) ? undefined : 'the agent is not built'

let directory: string
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'bramble-up-'))
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

const bramble = (...args: string[]): ChildProcess =>
  spawn(process.execPath, [MAIN, ...args], {
    env: { ...process.env, BRAMBLE_DATA_DIR: directory, BRAMBLE_URL: '', BRAMBLE_API_KEY: '', NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })

const finish = async (child: ChildProcess) => {
  let stdout = ''
  let stderr = ''
  child.stdout?.on('data', (data) => (stdout += data))
  child.stderr?.on('data', (data) => (stderr += data))
  const [code] = await once(child, 'close')
  return { code, stdout, stderr }
}

const run = (...args: string[]) => finish(bramble(...args))

// Without isolation, so that it runs on any host; the drivers have tests of their own.
const UP = ['up', '--no-isolation', '--port', '0', '--runtime', 'auto']

describe('a node', () => {
  beforeEach((context) => context.skip(missing !== undefined, missing))

  test('comes up in the background, answers, is the only one, and goes down', async () => {
    // A pipe gets JSON without being asked, and nothing twice.
    const up = await run(...UP, '--detach')
    expect(up).toMatchObject({ code: 0 })
    expect(up.stderr).toContain('WARNING: --no-isolation')
    expect(up.stderr).not.toContain('http://')
    const ready = JSON.parse(up.stdout)
    expect(ready).toMatchObject({ type: 'ready', isolated: false, runtimes: ['process'] })
    expect(existsSync(ready.logFile)).toBe(true)
    expect(ready.firstCommand).toMatchObject({ stdout: 'hello\n', exitCode: 0 })

    expect(await run('run', '--', 'echo', 'again')).toMatchObject({ code: 0, stdout: 'again\n' })
    expect(await run('run', '--', 'exit 7')).toMatchObject({ code: 7 })
    const second = await run(...UP, '--json')
    expect(JSON.parse(second.stdout)).toEqual({ type: 'running', url: ready.url, pid: ready.pid })

    const down = await run('down', '--json')
    expect(JSON.parse(down.stdout)).toEqual({ stopped: true, pid: ready.pid, instances: { stopped: 0, left: 0 } })
    expect(existsSync(nodeFile(directory))).toBe(false)
    expect(JSON.parse((await run('down', '--json')).stdout)).toMatchObject({ stopped: false })
  })

  test('says which instances go on without it, and stops them where it is asked to', async () => {
    expect(await run(...UP, '--detach')).toMatchObject({ code: 0 })
    try {
      expect(await run('start', '--name', 'box')).toMatchObject({ code: 0 })
    } finally {
      const down = await run('down')
      expect(down.stdout).toMatch(/stopped the node.*\n1 instance goes on without it: .*--stop-instances/)
    }
    expect((await run('down')).stdout).toMatch(/no node runs.*\n1 instance goes on/)
    expect((await run('down', '--stop-instances')).stdout).toMatch(/no node runs.*\nstopped 1 instance\n$/)
    expect(JSON.parse((await run('down', '--stop-instances', '--json')).stdout)).toEqual({
      stopped: false,
      instances: { stopped: 0, left: 0 },
    })
  })

  test('in the foreground ends cleanly at SIGTERM, and one that was killed blocks nothing', async () => {
    for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
      const child = bramble(...UP, '--json')
      const ended = finish(child)
      await new Promise<void>((resolve) => child.stdout?.on('data', (data) => /"ready"/.test(data) && resolve()))
      child.kill(signal)
      expect((await ended).code).toBe(signal === 'SIGTERM' ? 0 : null)
    }
    expect(existsSync(nodeFile(directory))).toBe(false)
  })

  test('says what to do about a port that is taken', async () => {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    try {
      const { port } = server.address() as { port: number }
      for (const more of [[], ['--detach']]) {
        const { code, stderr } = await run(...UP, '--port', String(port), ...more)
        expect({ code, stderr }).toEqual({ code: 125, stderr: expect.stringContaining('another program does') })
        expect(stderr).toContain('--port')
      }
    } finally {
      server.close()
    }
  })

  test('without isolation listens on loopback only', async () => {
    const { code, stderr } = await run(...UP, '--host', '0.0.0.0')
    expect({ code, stderr }).toEqual({ code: 125, stderr: expect.stringContaining('loopback') })
  })
})
