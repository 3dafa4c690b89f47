import { describe, expect, test } from 'vitest'
import type { Sandbox } from '../runtime.ts'
import { endOf, outputOf, PATH, runCommand } from './run-command.ts'
import { configOf, type Fixture, skip } from './subject.ts'

const MIB = 1024 * 1024
/** `tail` keeps the last line, and the input has no end of line. */
export const MEMORY_BOMB = 'tail -n 1 /dev/zero'

/** How many processes were killed for want of memory, whether the sandbox lived through it or not. */
export const oomKillsOf = async (sandbox: Sandbox): Promise<number> => {
  const survived = await endOf(sandbox, ['true']).then(
    (end) => end === 0,
    () => false,
  )
  if (survived) return (await sandbox.stats()).oomKills
  const ended = await sandbox.ended
  return ended.by === 'itself' ? ended.oomKills : 0
}

/** Limits, each where the driver declares that it enforces it. */
export const testLimits = (subject: Fixture): void => {
  describe('limits', () => {
    test('stats are numbers that a sandbox can have', async (context) => {
      const { runtime, ...rest } = subject(context)
      await using sandbox = await runtime.create(configOf(rest))
      const before = await sandbox.stats()
      await outputOf(sandbox, 'for i in $(seq 1 2000); do :; done; head -c 4194304 /dev/zero > four')
      const after = await sandbox.stats()
      for (const value of [...Object.values(before), ...Object.values(after)]) {
        expect(Number.isFinite(value)).toBe(true)
        expect(value).toBeGreaterThanOrEqual(0)
      }
      expect(after.oomKills).toBe(0)
      expect(after.cpuMs).toBeGreaterThanOrEqual(before.cpuMs)
      const { limits } = runtime.capabilities
      if (limits.cpu) expect(after.cpuMs).toBeGreaterThan(before.cpuMs)
      if (limits.memory) {
        expect(after.memoryBytes).toBeGreaterThan(0)
        expect(after.peakMemoryBytes).toBeGreaterThanOrEqual(after.memoryBytes / 2)
        expect(after.peakMemoryBytes).toBeLessThanOrEqual(sandbox.config.resources.memoryMb * MIB * 1.1)
      }
      if (limits.disk) expect(after.diskBytes - before.diskBytes).toBeGreaterThanOrEqual(3 * MIB)
    })

    test('a command that takes more memory than there is is killed, and told from a crash', async (context) => {
      const { runtime, ...rest } = subject(context)
      if (!runtime.capabilities.limits.memory) skip(context, 'the driver does not limit memory')
      await using sandbox = await runtime.create(configOf(rest, { resources: { memoryMb: 32 } }))
      await using neighbour = await runtime.create(configOf(rest, { resources: { memoryMb: 32 } }))
      const end = await endOf(sandbox, ['sh', '-c', MEMORY_BOMB]).catch(() => 'sandbox died')
      expect(['signal 9', 137, 'sandbox died']).toContain(end)
      expect(await oomKillsOf(sandbox)).toBeGreaterThanOrEqual(1)
      expect((await neighbour.stats()).oomKills).toBe(0)
      expect(await endOf(neighbour, ['true'])).toBe(0)
    })

    test('processes are bounded, and the sandbox is usable once they are gone', async (context) => {
      const { runtime, ...rest } = subject(context)
      if (!runtime.capabilities.limits.pids) skip(context, 'the driver does not limit processes')
      await using sandbox = await runtime.create(configOf(rest, { resources: { pids: 24 } }))
      const script = 'for i in $(seq 1 200); do sleep 100000 & done; echo all of them'
      const running = sandbox.agent.exec({ argv: ['sh', '-c', script], env: { PATH }, linger: true })
      let said = ''
      for await (const event of running) {
        if (event.type !== 'stdout' && event.type !== 'stderr') continue
        said += event.data
        if (said.includes('fork')) running.kill(9)
      }
      expect(said).toMatch(/fork/)
      // The killed are reaped one by one: until then there may be no room for another.
      while ((await endOf(sandbox, ['true'])) !== 0) await sandbox.agent.ping()
    })

    test('processor time is bounded by the quota', async (context) => {
      const { runtime, ...rest } = subject(context)
      if (!runtime.capabilities.limits.cpu) skip(context, 'the driver does not limit processor time')
      const cpus = 0.2
      await using sandbox = await runtime.create(configOf(rest, { resources: { cpus } }))
      const began = performance.now()
      const before = (await sandbox.stats()).cpuMs
      const burn = 'i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done'
      await outputOf(sandbox, `(${burn}) & (${burn}) & wait`)
      const usedMs = (await sandbox.stats()).cpuMs - before
      const wallMs = performance.now() - began
      // What the kernel promises: a quota in every period, whatever else the host does. Two periods may be partial.
      expect(usedMs).toBeLessThanOrEqual(cpus * (wallMs + 200) * 1.1)
      expect(usedMs).toBeGreaterThan(50)
    })

    test('the disk is full at its limit, and usable again after files are removed', async (context) => {
      const { runtime, ...rest } = subject(context)
      if (!runtime.capabilities.limits.disk) skip(context, 'the driver does not limit the disk')
      const diskMb = 16
      await using sandbox = await runtime.create(configOf(rest, { resources: { diskMb } }))
      await using neighbour = await runtime.create(configOf(rest, { resources: { diskMb } }))
      const filled = await runCommand(sandbox, 'dd if=/dev/zero of=big bs=1048576 count=200')
      expect(filled.exit).not.toMatchObject({ kind: 'exited', code: 0 })
      expect(filled.stderr.toString()).toMatch(/No space left|quota exceeded/i)
      const writtenMb = Number(await outputOf(sandbox, 'wc -c < big')) / MIB
      expect(writtenMb).toBeGreaterThan(diskMb * 0.5)
      expect(writtenMb).toBeLessThan(diskMb * 1.25)
      await outputOf(neighbour, 'head -c 4194304 /dev/zero > fits')
      await outputOf(sandbox, 'rm big; head -c 4194304 /dev/zero > fits')
    })
  })
}
