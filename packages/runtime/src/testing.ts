import { beforeAll, describe } from 'vitest'
import { type OpenArena, testAttacks } from './testing/attacks.ts'
import { testCommands } from './testing/commands.ts'
import { buildHostile, putHostile } from './testing/hostile-program.ts'
import { testKeep } from './testing/keep.ts'
import { testLifecycle } from './testing/lifecycle.ts'
import { testLimits } from './testing/limits.ts'
import { testNetwork } from './testing/network.ts'
import { testPause } from './testing/pause.ts'
import { testSeals } from './testing/seals.ts'
import { testStreams } from './testing/streams.ts'
import { configOf, type SubjectOptions, skip, useSubject } from './testing/subject.ts'
import { testWalls } from './testing/walls.ts'

export { FILE_SYSTEMS, type FileSystem, layerDirectory } from './seals/testing/layer-directory.ts'
export { launcherOf } from './testing/launcher-of.ts'
export { type CommandResult, collect, endOf, outputOf, runCommand } from './testing/run-command.ts'
export { configOf, type FreshRuntime, type Subject, type SubjectOptions } from './testing/subject.ts'
export { makeTestImage, type TestImage } from './testing/test-image.ts'

/**
 * The contract of a `Runtime`, run by every driver with one call in a test file of its own. What a driver declares in
 * its capabilities is checked; what it does not is skipped with the reason. A host that cannot run the driver skips it
 * all, unless `REQUIRE_DRIVERS` names it.
 */
export const testRuntime = (name: string, options: SubjectOptions): void => {
  describe(`runtime ${name}`, () => {
    const subject = useSubject(name, options)
    testLifecycle(subject)
    testCommands(subject)
    testStreams(subject)
    testLimits(subject)
    testPause(subject)
    testKeep(subject)
    testSeals(subject)
    testNetwork(subject)
  })
}

/** What hostile code tries, for drivers that isolate: each attempt fails, and neither neighbour nor host is harmed. */
export const testRuntimeIsolation = (name: string, options: SubjectOptions): void => {
  describe(`isolation of ${name}`, () => {
    const subject = useSubject(name, options)
    let program: Awaited<ReturnType<typeof buildHostile>> | undefined
    beforeAll(async () => {
      program = await buildHostile()
    })
    const arena: OpenArena = async (context) => {
      const opened = subject(context)
      if (opened.runtime.capabilities.isolation === 'none') skip(context, 'the driver isolates nothing')
      if (!program) throw new Error('the hostile program was not built')
      if ('skip' in program) return skip(context, program.skip)
      const binary = program
      return {
        subject: opened,
        open: async (resources = {}) => {
          const sandbox = await opened.runtime.create(configOf(opened, { resources }))
          await putHostile(sandbox, binary)
          return sandbox
        },
      }
    }
    testAttacks(arena)
    testWalls(arena)
  })
}
