// A reporter for vitest: writes what its run counted as JSON to the file named by BRAMBLE_TEST_COUNTS.
import { writeFileSync } from 'node:fs'
import type { Reporter, SerializedError, TestModule } from 'vitest/node'

export default class CountReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly SerializedError[]): void {
    const file = process.env.BRAMBLE_TEST_COUNTS
    if (file !== undefined) writeFileSync(file, JSON.stringify(count(modules, unhandledErrors)))
  }
}

const count = (modules: readonly TestModule[], unhandledErrors: readonly SerializedError[]) => {
  let passed = 0
  const failed: string[] = unhandledErrors.map((error) => `an error outside of any test: ${error.message}`)
  const skipped: { name: string; reason: string }[] = []
  for (const module of modules) {
    // A file that cannot be loaded, or a hook that throws, has no failed test to show for it.
    for (const suite of [module, ...module.children.allSuites()])
      if (suite.errors().length > 0) failed.push(suite.type === 'module' ? suite.moduleId : suite.fullName)
    for (const test of module.children.allTests()) {
      const result = test.result()
      const name = `${module.relativeModuleId} > ${test.fullName}`
      if (result.state === 'passed') passed++
      else if (result.state === 'skipped') skipped.push({ name, reason: result.note ?? 'no reason given' })
      else failed.push(name)
    }
  }
  return { passed, failed, skipped }
}
