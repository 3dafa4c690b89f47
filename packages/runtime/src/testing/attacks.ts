import { randomUUID } from 'node:crypto'
import { afterAll, describe, expect, type TestContext, test } from 'vitest'
import type { Sandbox, SandboxResources } from '../runtime.ts'
import { attempts, HOSTILE } from './hostile-program.ts'
import { oomKillsOf } from './limits.ts'
import { endOf, outputOf, PATH, runCommand } from './run-command.ts'
import { type Subject, skip } from './subject.ts'
import { hostProcesses, type Others, startOthers } from './unharmed.ts'

export interface Arena {
  readonly subject: Subject
  /** A sandbox with the hostile program at `HOSTILE`. */
  open(resources?: Partial<SandboxResources>): Promise<Sandbox>
}
export type OpenArena = (context: TestContext) => Promise<Arena>

const died = () => 'sandbox died' as const

/** Commands that take all they can get, or do not want to end. The neighbour and the host must not notice. */
export const testAttacks = (arena: OpenArena): void => {
  describe('attacks', () => {
    let others: Others | undefined
    afterAll(() => others?.close())

    /** Runs `attack` in a sandbox of its own, destroys it, and looks at the others. */
    const against = async (
      context: TestContext,
      attack: (sandbox: Sandbox, arena: Arena) => Promise<void>,
      resources: Partial<SandboxResources> = {},
    ) => {
      const opened = await arena(context)
      others ??= await startOthers(opened.subject)
      const sandbox = await opened.open(resources)
      try {
        await attack(sandbox, opened)
        await others.check()
      } finally {
        await sandbox.destroy()
      }
      expect(await opened.subject.runtime.list()).not.toContain(sandbox.id)
      await others.check()
    }

    test('a fork bomb', async (context) => {
      await against(
        context,
        async (sandbox, { subject }) => {
          if (!subject.runtime.capabilities.limits.pids) skip(context, 'the driver does not limit processes')
          const bomb = sandbox.agent.exec({ argv: [HOSTILE, 'bomb'], env: { PATH } })
          const ended = (async () => {
            for await (const _event of bomb);
          })().catch(died)
          // The bomb has gone off when there is no room for one more process, which only the agent can say.
          while ((await endOf(sandbox, ['true']).catch(died)) === 0) await others?.check()
          await others?.check()
          await sandbox.destroy()
          await ended
        },
        { pids: 32 },
      )
    })

    test('a memory bomb', async (context) => {
      await against(
        context,
        async (sandbox, { subject }) => {
          if (!subject.runtime.capabilities.limits.memory) skip(context, 'the driver does not limit memory')
          expect(['signal 9', 'sandbox died']).toContain(await endOf(sandbox, [HOSTILE, 'eat']).catch(died))
          expect(await oomKillsOf(sandbox)).toBeGreaterThanOrEqual(1)
        },
        { memoryMb: 32 },
      )
    })

    test('files in memory count as memory', async (context) => {
      await against(
        context,
        async (sandbox, { subject }) => {
          if (!subject.runtime.capabilities.limits.memory) skip(context, 'the driver does not limit memory')
          const fill =
            'for d in /dev/shm /dev /run /tmp; do head -c 268435456 /dev/zero > $d/big; done 2>/dev/null; exit 9'
          expect([9, 'signal 9', 'sandbox died']).toContain(await endOf(sandbox, fill).catch(died))
          const alive = (await endOf(sandbox, ['true']).catch(died)) === 0
          if (alive) expect((await sandbox.stats()).memoryBytes).toBeLessThanOrEqual(33 * 1024 * 1024)
        },
        { memoryMb: 32, diskMb: 16 },
      )
    })

    test('a disk filler', async (context) => {
      await against(
        context,
        async (sandbox, { subject }) => {
          if (!subject.runtime.capabilities.limits.disk) skip(context, 'the driver does not limit the disk')
          const fill = 'for d in / /tmp /home/app /var/tmp; do head -c 67108864 /dev/zero > $d/big; done; exit 9'
          expect((await runCommand(sandbox, fill)).stderr.toString()).toMatch(/No space left|quota/i)
          const inodes = 'i=0; while echo > /tmp/f$i; do i=$((i+1)); [ $i -ge 20000 ] && break; done 2>/dev/null; true'
          await outputOf(sandbox, inodes)
        },
        { diskMb: 16 },
      )
    })

    for (const what of ['attributes', 'reserved', 'unlinked'])
      test(`a disk filler that hoards ${what}`, async (context) => {
        const diskMb = 16
        await against(
          context,
          async (sandbox, { subject }) => {
            if (!subject.runtime.capabilities.limits.disk) skip(context, 'the driver does not limit the disk')
            expect(await endOf(sandbox, [HOSTILE, 'hoard', what])).toBe(0)
            expect((await sandbox.stats()).diskBytes).toBeLessThanOrEqual(diskMb * 1.25 * 1024 * 1024)
          },
          { diskMb },
        )
      })

    test('room that has no quota', async (context) => {
      await against(context, async (sandbox) => {
        const directories = ['/', '/tmp', '/dev', '/dev/shm', '/.bramble', '/.bramble/run', '/proc', '/sys']
        const made = Object.entries(await attempts(sandbox, 'subvolumes', ...directories)).filter(([, errno]) => !errno)
        expect(made).toEqual([])
        const fill = 'for i in $(seq 1 100000); do echo x > /.bramble/run/$i || exit 9; done'
        if ((await endOf(sandbox, '[ -d /.bramble/run ]')) === 0) expect(await endOf(sandbox, fill)).toBe(9)
      })
    })

    test('one that ignores SIGTERM', async (context) => {
      await against(context, async (sandbox) => {
        const script = "trap '' TERM; echo ready; while :; do sleep 1; done"
        const stubborn = sandbox.agent.exec({ argv: ['sh', '-c', script], env: { PATH } })
        let end: unknown
        for await (const event of stubborn) {
          if (event.type === 'stdout') {
            stubborn.kill(15)
            await sandbox.agent.ping()
            expect(await endOf(sandbox, ['true'])).toBe(0)
            stubborn.kill(9)
          }
          if (event.type === 'exit') end = event
        }
        expect(end).toMatchObject({ kind: 'signalled', signal: 9 })
      })
    })

    test('one that closes its standard streams', async (context) => {
      await against(context, async (sandbox) => {
        expect(await endOf(sandbox, 'exec 0<&- 1>&- 2>&-; cd /tmp; exit 7', { input: 'unread' })).toBe(7)
        expect(await endOf(sandbox, 'for f in 3 4 5 6 7 8 9; do eval "exec $f>&-"; done; exit 8')).toBe(8)
      })
    })

    test('one that makes itself a daemon', async (context) => {
      const marker = randomUUID()
      await against(context, async (sandbox) => {
        expect(await endOf(sandbox, [HOSTILE, 'daemonise', marker])).toBe(0)
        expect(await outputOf(sandbox, `grep -l ${marker} /proc/[0-9]*/cmdline | grep -vc self`)).not.toBe('0\n')
      })
      expect(await hostProcesses(marker)).toEqual([])
    })

    test('signals to the agent from inside', async (context) => {
      await against(context, async (sandbox) => {
        await runCommand(sandbox, 'kill -9 1; kill -TERM 1; kill -STOP 1; kill -SEGV 1; true')
        expect(await endOf(sandbox, ['true'])).toBe(0)
        // Everything but PID 1 and the caller: other commands of the sandbox end, the agent does not.
        await runCommand(sandbox, 'kill -9 -1; true').catch(died)
        expect(await endOf(sandbox, ['true'])).toBe(0)
      })
    })

    test('output without end, thrown away', async (context) => {
      await against(context, async (sandbox) => {
        const bytes = 512 * 1024 * 1024
        const noisy = sandbox.agent.exec({ argv: ['sh', '-c', `yes | head -c ${bytes} >&2; echo done`], env: { PATH } })
        noisy.discard('stderr')
        let said = ''
        for await (const event of noisy) if (event.type === 'stdout') said += event.data
        expect(said).toBe('done\n')
      })
    })
  })
}
