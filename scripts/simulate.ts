import { runSimulation } from '@bramble/coordinator/simulation'

process.exitCode = await runSimulation(process.argv.slice(2), { out: (line) => console.log(line) })
