import { writeSync } from 'node:fs'
import { fsStore } from '@bramble/blobs'
import { silentLog, systemClock } from '../options.ts'
import { sha256 } from '../outcome.ts'
import { openResultCache } from './open-result-cache.ts'
import { aResult, aWish } from './testing.ts'

/**
 * What `crash.test.ts` starts, to kill it: `node crash-child.ts <directory> <step>`. At that step of what the store does to its
 * disk it kills itself. What it was told to be done is a line on standard output.
 */
const [directory = '', dieAt = ''] = process.argv.slice(2)

let steps = 0
const step = (): void => {
  if (steps++ === Number(dieAt)) process.kill(process.pid, 'SIGKILL')
}
const tell = (fact: string): void => {
  writeSync(1, `${fact}\n`)
}

await using store = await fsStore({ directory, step })
const deps = { store, node: 'dies', log: silentLog, clock: systemClock, notice: () => {}, grant: async () => {} }
const cache = await openResultCache(deps)
const large = 'first '.repeat(10_000)
const run = async (stdout: string): Promise<void> => {
  await cache.through(aWish(), async () => aResult(stdout))
  await cache.settled()
}
await run(large)
tell(`stored ${sha256(large)}`)
await cache.invalidate('acme', { all: true })
tell('forgotten')
await run('second')
tell(`stored ${sha256('second')}`)
await cache.close()
tell('closed')
