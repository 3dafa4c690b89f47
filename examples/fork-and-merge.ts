import { Bramble, MergeConflictError } from '@bramble/sdk'

const bramble = new Bramble()
await using box = await bramble.instances.start({ memoryMb: 64, ttlMs: 600_000 })
await box.files.upload({ 'notes.txt': 'one\ntwo\nthree\nfour\nfive\n', 'old.txt': 'not needed any more\n' }, '/work')

// Three agents go on from here at once, each in a branch of its own. The first and the second edit the same file.
const agents = await box.branch(3)
const tasks = ["sed -i 's/one/ONE/' notes.txt", "sed -i 's/five/FIVE/' notes.txt; rm old.txt", 'echo 3 > new.txt']
await Promise.all(agents.map((agent, at) => agent.exec(tasks[at] ?? '', { workdir: '/work', check: true })))

const { snapshot, totals } = await bramble.merge({ branches: agents })
console.log(`${totals.merged} merged by lines`)
await using merged = await bramble.snapshots.restore(snapshot)
console.log((await merged.exec('echo $(cat notes.txt) $(ls)', { workdir: '/work' }).text()).trim())

// What does not fit together is said, and nothing is made until someone decides.
await agents[2]?.exec("sed -i 's/one/eins/' notes.txt", { workdir: '/work', check: true })
try {
  await bramble.merge({ branches: agents })
} catch (error) {
  if (!(error instanceof MergeConflictError)) throw error
  for (const { path, kind, lines } of error.conflicts) console.log(`conflict in ${path}: ${kind}`, lines?.[0])
}
await Promise.all(agents.map((agent) => agent.delete()))
