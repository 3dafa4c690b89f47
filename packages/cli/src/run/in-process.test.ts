import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { runCli, spawnCli } from '../../test/spawn-cli.ts'
import { staticBusybox } from '../setup/host-parts.ts'

const agent = join(import.meta.dirname, '../../../agent/build/agent')
const missing = !existsSync(agent) ? 'the agent is not built' : staticBusybox() === undefined ? 'no busybox' : undefined
const reason = missing === undefined ? '' : ` (skipped: ${missing}; \`bramble setup\` makes it)`

const withDirectory = async (work: (env: Record<string, string>) => Promise<void>): Promise<void> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-alone-'))
  try {
    await work({ BRAMBLE_DATA_DIR: directory })
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

test.skipIf(missing !== undefined)(
  `without a node, run starts one for itself; its first makes the image${reason}`,
  () =>
    withDirectory(async (env) => {
      const first = await runCli(['run', '--no-isolation', '--', 'sh', '-c', 'echo out; echo err >&2; exit 4'], env)
      expect(first).toMatchObject({ code: 4, stdout: 'out\n' })
      expect(first.stderr).toMatch(/^WARNING: --no-isolation[^\n]*\n[^\n]*make the image base[^\n]*\nerr\n$/)
      const second = await runCli(['run', '--no-isolation', '--stdin', '--', 'cat'], env, 'again')
      expect(second).toMatchObject({ code: 0, stdout: 'again' })
      expect(second.stderr).not.toContain('make the image')
      const images = await runCli(['images'], env)
      expect(JSON.parse(images.stdout)).toMatchObject([{ names: ['base'] }])
    }),
)

test.skipIf(missing !== undefined)(`Ctrl-C ends it with 130 and leaves no process${reason}`, () =>
  withDirectory(async (env) => {
    const running = spawnCli(['run', '--no-isolation', '--', 'sh', '-c', 'echo pid $$; exec sleep 1000'], env)
    await running.printed('pid ')
    running.child.kill('SIGINT')
    const { code, stdout } = await running.ended
    expect(code).toBe(130)
    const pid = Number(/pid (\d+)/.exec(stdout)?.[1])
    expect(() => process.kill(pid, 0)).toThrow(expect.objectContaining({ code: 'ESRCH' }))
  }),
)
