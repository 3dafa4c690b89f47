import { Bramble, verifyReceipts } from '@bramble/sdk'

const bramble = new Bramble()
// Three nodes may be asked, and two of them must say the same. Nobody sees what one says before that.
const { id } = await bramble.jobs.submit({ command: 'seq 100 | sha256sum', redundancy: 3, consensus: 2 })
for await (const event of bramble.jobs.events(id))
  if (event.type === 'execution') console.error(`${event.node} ${event.status}`)

const job = await bramble.jobs.wait(id)
if (job.result === undefined) throw new Error(`the job ended as ${job.status}: ${job.message}`)
console.log(new TextDecoder().decode(await bramble.jobs.read(job.result.stdout)).trim())

// The network's word is not taken for it: each receipt names its node, and is signed by that node's key. All is checked here.
const evidence = await bramble.jobs.receipts(id)
const { valid, nodes, faults } = verifyReceipts(evidence, { job, consensus: 2 })
console.log(valid ? `${nodes.length} nodes signed this result` : faults)

// A result that differs by one character is not what they signed.
const forged = { ...job.result, stdout: { ...job.result.stdout, content: 'forged' } }
console.log('forged:', verifyReceipts(evidence, { job: { ...job, result: forged } }).faults[0]?.code)
