import { describe } from 'vitest'
import { testCommands } from './testing/commands.ts'
import { testLifecycle } from './testing/lifecycle.ts'
import { testLimits } from './testing/limits.ts'
import { testStreams } from './testing/streams.ts'
import { type SubjectOptions, useSubject } from './testing/subject.ts'

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
  })
}
