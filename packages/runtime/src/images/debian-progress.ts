import type { ImportProgress } from './image-store.ts'

/** Where a stage of the build begins and ends on the whole, 0 to 1, as measured with python3 and nodejs. */
const STAGES = [
  { starts: 'running apt-get update', message: 'reading package lists', from: 0, to: 0.05 },
  { starts: 'downloading packages', message: 'downloading the essential packages', from: 0.05, to: 0.15 },
  { starts: 'extracting archives', message: 'unpacking the essential packages', from: 0.15, to: 0.25 },
  { starts: 'installing essential packages', message: 'installing the essential packages', from: 0.25, to: 0.5 },
  { starts: 'installing remaining packages', message: 'installing packages', from: 0.5, to: 0.9 },
  { starts: 'cleaning package lists', message: 'cleaning up', from: 0.9, to: 0.92 },
  { starts: 'creating tarball', message: 'writing the archive', from: 0.92, to: 1 },
] as const

/**
 * Turns what `mmdebstrap --verbose` prints into progress: its own stages (`I: …`), and within a stage apt's count of
 * packages against its lines of what it fetches and sets up.
 */
export const debianProgress = (report: (progress: ImportProgress) => void): ((line: string) => void) => {
  let stage: (typeof STAGES)[number] = STAGES[0]
  let packages = 0
  let fetched = 0
  let configured = 0

  return (line) => {
    const next = line.startsWith('I: ') ? STAGES.find(({ starts }) => line.startsWith(starts, 3)) : undefined
    if (next) {
      stage = next
      fetched = 0
      configured = 0
      return report({ phase: 'build', message: stage.message, fraction: stage.from })
    }
    packages = Number(/^\d+ upgraded, (\d+) newly installed/.exec(line)?.[1] ?? packages)
    const got = /^Get:\d+ \S+ \S+ \S+ (\S+)/.exec(line)?.[1]
    const set = /^Setting up (\S+)/.exec(line)?.[1]
    if (got) fetched++
    else if (set) configured++
    else return
    // A package that is set up was fetched first: in a stage that does both, each is half of it.
    const steps = stage.starts.startsWith('installing remaining') ? 2 * packages : packages
    const done = steps === 0 ? 0 : Math.min(1, (fetched + configured) / steps)
    const message = got ? `downloading ${got}` : `installing ${set?.split(':')[0]}`
    report({ phase: 'build', message, fraction: stage.from + (stage.to - stage.from) * done })
  }
}
