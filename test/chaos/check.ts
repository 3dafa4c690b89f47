import { postgresStore } from '@bramble/coordinator/store'
import { wasmCurve } from '@bramble/identity/node'
import { type Job, jobHasEnded, type NetworkNode, type ReputationEntry } from '@bramble/protocol'
import { type Bramble, verifyReceipts } from '@bramble/sdk'
import { until } from '../leftovers.ts'
import { answerOf, type Submission } from './load.ts'
import type { ChaosNetwork } from './network.ts'

/** What must hold once all is mended. It is counted anew here, and not by the code that it checks. */
export interface Findings {
  readonly violations: readonly string[]
  readonly jobs: Readonly<Record<string, number>>
  readonly receipts: number
}

const AT_ONCE = 16
const QUIET_MS = 120_000
const CREDIT = 1_000_000

const forEach = async <T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> => {
  const waiting = [...items]
  const one = async (): Promise<void> => {
    for (let item = waiting.pop(); item !== undefined; item = waiting.pop()) await work(item)
  }
  await Promise.all(Array.from({ length: AT_ONCE }, one))
}

export const check = async (network: ChaosNetwork, submissions: readonly Submission[]): Promise<Findings> => {
  const violations: string[] = []
  const violated = (text: string): void => void violations.push(text)
  const client = network.client()
  const jobs: Record<string, number> = {}
  let receipts = 0

  let last = ''
  await until(
    'an idle network',
    async () => {
      const { executions, jobs: counts } = await client.network.stats()
      last = JSON.stringify({ executions, counts })
      const open = ['pending', 'scheduled', 'running', 'verifying'].some((status) => (counts[status] ?? 0) > 0)
      return executions.running === 0 && executions.waiting === 0 && !open
    },
    QUIET_MS,
  ).catch((error: Error) => violated(`${error.message}: ${last}`))

  const keys = new Map<string, string>()
  for (const { key, ids, seen } of submissions) {
    if (ids.size !== 1) violated(`${key} was answered with ${ids.size} jobs: ${[...ids].join(', ')}`)
    for (const id of ids) {
      if (keys.has(id)) violated(`${id} was the answer to ${key} and to ${keys.get(id)}`)
      keys.set(id, key)
    }
    if (!seen) violated(`${key} (${[...ids].join(', ')}): its client never saw it end`)
  }
  const listed = new Map<string, Job>()
  for await (const job of client.jobs.list({ limit: 500 })) {
    if (listed.has(job.id)) violated(`${job.id} is listed twice`)
    listed.set(job.id, job)
  }
  for (const id of listed.keys()) if (!keys.has(id)) violated(`${id} is listed, and nobody submitted it`)

  const store = await postgresStore({ url: network.databases.url })
  try {
    const checkJobs = async (submission: Submission): Promise<void> => {
      for (const id of submission.ids) {
        const [job, evidence, executions] = await Promise.all([
          client.jobs.get(id),
          client.jobs.receipts(id),
          client.jobs.executions(id),
        ])
        jobs[job.status] = (jobs[job.status] ?? 0) + 1
        const wrong = (text: string): void => violated(`${id} (${job.status}): ${text}`)
        if (!jobHasEnded(job.status)) wrong('it did not end')
        if (listed.get(id)?.status !== job.status) wrong(`it is listed as ${listed.get(id)?.status}`)
        const { seen } = submission
        const same = seen?.status === job.status && seen.resultHash === job.resultHash
        if (seen && !same && job.verification?.corrected !== true)
          wrong(`its client saw ${seen.status} ${seen.resultHash}, and it is ${job.status} ${job.resultHash}`)
        const open = executions.filter(({ status }) => ['scheduled', 'leased', 'running'].includes(status))
        if (open.length > 0) wrong(`${open.length} of its executions are still leased`)
        const agreed = executions.filter(({ validity }) => validity === 'agreed')
        if (new Set(agreed.map(({ owner }) => owner)).size !== agreed.length) wrong('one owner agreed twice')
        if (job.status === 'completed') {
          const report = verifyReceipts(evidence, { job, curve: wasmCurve() })
          receipts += evidence.receipts.length
          if (!report.valid) wrong(`its evidence does not hold: ${JSON.stringify(report.faults)}`)
          const { needed = 0 } = job.verification ?? {}
          if (agreed.length < needed) wrong(`${agreed.length} agreed, ${needed} were needed`)
          const { stdout } = job.result ?? {}
          const right = stdout && 'content' in stdout && stdout.content === answerOf(submission.command)
          if (job.consensus > 1 && job.policy === 'quorum' && !right) wrong('its result is not right')
        } else if (job.status !== 'cancelled' || !submission.cancelled) {
          if (job.message === undefined) wrong('it does not say why')
        }
        const entries = await store.ledger(`hold:${id}`, { limit: 500 })
        const sum = entries.reduce((total, { to, amount }) => total + (to === `hold:${id}` ? amount : -amount), 0)
        if (sum !== 0) wrong(`${sum / CREDIT} credits are still held`)
        const paid = entries.filter(({ kind }) => kind === 'pay')
        if (new Set(paid.map(({ execution }) => execution)).size !== paid.length) wrong('an execution was paid twice')
        const due = job.status === 'completed' ? Math.min(agreed.length, job.redundancy) : 0
        if (paid.length !== due && job.verification?.corrected !== true)
          wrong(`${paid.length} executions were paid, ${due} were due`)
        if (paid.some(({ amount }) => amount !== job.creditsRequired * CREDIT)) wrong('a payment is not its price')
      }
    }
    await forEach(submissions, (submission) =>
      checkJobs(submission).catch((error: unknown) => violated(`${submission.key}: ${error}`)),
    )
    const { total, byKind } = await store.balances()
    if (total !== 0) violated(`all accounts together hold ${total / CREDIT} credits`)
    if ((byKind.hold ?? 0) !== 0) violated(`${(byKind.hold ?? 0) / CREDIT} credits are held for nobody`)
  } finally {
    await store.close()
  }
  await checkNodes(network, client, violated)
  const { jobs: counted } = await client.network.stats()
  for (const [status, count] of Object.entries(jobs))
    if (counted[status] !== count) violated(`${count} jobs are ${status}, and the network counts ${counted[status]}`)
  return { violations, jobs, receipts }
}

const checkNodes = async (network: ChaosNetwork, client: Bramble, violated: (text: string) => void): Promise<void> => {
  const honest = new Set(network.workers.filter((worker) => worker.honest).map(({ owner }) => owner))
  const nodes = await client.network.nodes({ limit: 500 }).all()
  if (nodes.length !== network.workers.length)
    violated(`${network.workers.length} nodes joined, and ${nodes.length} are there`)
  for (const node of nodes) {
    const wrong = (text: string): void => violated(`node ${node.id} (${node.owner}): ${text}`)
    if (node.running !== 0) wrong(`${node.running} executions run`)
    const entries = await client.network.reputation(node.id, { limit: 500 }).all()
    for (const fault of faultsOfRecord(node, entries)) wrong(fault)
    const lied = entries.some(({ kind }) => ['disagreed', 'convicted', 'invalid'].includes(kind))
    if (honest.has(node.owner) && (lied || node.status === 'suspended'))
      wrong(`it never lied: ${JSON.stringify(entries.find(({ kind }) => kind !== 'agreed' && kind !== 'alone'))}`)
  }
}

/** The contract's numbers: from 100, within 0 to 1000, +5, -10, -20. */
const POINTS: Readonly<Record<string, number>> = { agreed: 5, disagreed: -10, silent: -20 }

const faultsOfRecord = ({ trust }: NetworkNode, newestFirst: readonly ReputationEntry[]): string[] => {
  const faults: string[] = []
  const counted = new Set<string>()
  let score = 100
  let agreements = 0
  let disagreements = 0
  for (const { kind, execution } of newestFirst.toReversed()) {
    const once = `${kind} ${execution}`
    if (execution !== undefined && counted.has(once)) faults.push(`${once} is in its record twice`)
    counted.add(once)
    score = Math.min(1000, Math.max(0, score + (POINTS[kind] ?? 0)))
    if (kind === 'agreed') agreements++
    if (kind === 'disagreed') disagreements++
    if (kind === 'convicted') agreements = 0
  }
  const folded = { score, agreements, disagreements }
  for (const [name, value] of Object.entries(folded))
    if (trust[name as keyof typeof folded] !== value)
      faults.push(`its ${name} is ${trust[name as keyof typeof folded]}, and its record makes ${value}`)
  return faults
}
