import { stripVTControlCharacters } from 'node:util'
import { jobExecutionSchema, jobSchema, networkNodeSchema, networkStatsSchema, newId } from '@bramble/protocol'
import type { EvidenceReport, Job, JobEvent, JobExecution, NetworkNode, NetworkStats } from '@bramble/sdk'
import { describe, expect, test } from 'vitest'
import { formatTable } from '../terminal.ts'
import { jobProgress } from './follow-job.ts'
import { executionColumns, JOB_COLUMNS } from './job-columns.ts'
import { exitCodeOfJob } from './job-exit.ts'
import { evidenceLines, jobLines } from './job-view.ts'
import { ofNetwork } from './network-call.ts'
import { NODE_COLUMNS } from './node-columns.ts'
import { nodeLines } from './node-view.ts'
import { shortId } from './short-id.ts'
import { statsLines } from './stats-view.ts'

const PLAIN = { color: false }
const at = '2026-01-01T00:00:00.000Z'
const node = `0x${'0a'.repeat(20)}`
const publicKey = `0x02${'11'.repeat(32)}`

const content = (text: string) => ({ encoding: 'utf8', content: text, sizeBytes: text.length, sha256: '0'.repeat(64) })
const result = {
  status: 'failed',
  exitCode: 3,
  stdout: content('out'),
  stderr: content(''),
  truncated: false,
  outputs: { '/none': { error: 'not_found' } },
}

const jobOf = (change: Record<string, unknown> = {}): Job =>
  jobSchema.parse({
    ...{ id: newId('job'), status: 'pending', command: ['echo', 'a b'], image: 'base', redundancy: 3, consensus: 2 },
    ...{ strategy: 'lazy', policy: 'quorum', priority: 50, creditsRequired: 1, creditsSpent: 0, labels: { a: 'b' } },
    ...{ diversity: 'strict', relaxed: [], createdAt: at },
    ...change,
  })
const verification = {
  ...{ policy: 'quorum', decidedBy: 'quorum', agreed: 2, needed: 2, executions: 3, corrected: false },
}
const done = jobOf({
  ...{ status: 'completed', startedAt: at, finishedAt: '2026-01-01T00:00:00.150Z', verification, result },
  resultHash: 'ab'.repeat(32),
})

const executionOf = (change: Record<string, unknown> = {}): JobExecution =>
  jobExecutionSchema.parse({
    ...{ id: newId('execution'), job: done.id, node, owner: 'ada', status: 'completed', validity: 'agreed' },
    ...{ reason: 'first', token: 1, createdAt: at, leasedAt: at, startedAt: '2026-01-01T00:00:00.004Z' },
    ...{ finishedAt: '2026-01-01T00:00:00.100Z', resultHash: 'ab'.repeat(32) },
    ...change,
  })

const text = (lines: readonly string[]): string => lines.join('\n')

test('ids are as short as they stay told apart', () => {
  expect(shortId('job_01k9abcdefghjkmnpqrstvwxyz')).toBe('rstvwxyz')
  expect(shortId(node)).toBe('0x0a0a0a0a')
  expect(shortId('box')).toBe('box')
})

describe('a job', () => {
  test('in a table: what was agreed on, or what it takes', () => {
    const waiting = { nodes: 4, busy: 1, stopped: { cpus: 3 }, message: 'no node has 64 cpus', since: at }
    const table = formatTable(JOB_COLUMNS, [done, jobOf({ waiting })], PLAIN).split('\n')
    expect(table[1]).toMatch(/completed +2 of 2 .* 150 ms +base +echo 'a b'$/)
    expect(table[2]).toMatch(/pending +2 of 3 needed .* no node has 64 cpus$/)
  })

  test('by itself: its verdict, its result, each execution in time', () => {
    const lines = text(jobLines(done, [executionOf(), executionOf({ validity: 'late', message: 'too late' })], PLAIN))
    expect(lines).toMatch(/^job_\w{26} {2}completed\n/)
    expect(lines).toContain('quorum: 2 of 3 agree, lazy')
    expect(lines).toContain('2 agreed, 2 needed; 3 executions')
    expect(lines).toContain('exit 3, stdout 3 B, stderr 0 B, /none: not_found')
    expect(lines).toMatch(/0x0a0a0a0a +ada +first +completed +agreed +\+0 ms +\+4 ms +\+100 ms +abababababab$/m)
    expect(lines).toMatch(/^\w{8} {3}too late$/m)
    expect(lines).toMatch(/stdout +out$/m)
  })

  test('that waits says what stops which nodes', () => {
    const waiting = { nodes: 4, busy: 1, stopped: { memory: 1, cpus: 2 }, message: 'no node fits', since: at }
    expect(text(jobLines(jobOf({ waiting }), [], PLAIN))).toMatch(/waits +no node fits; since .* ago$/m)
  })

  test('what others wrote cannot steer the terminal', () => {
    const evil = '\u001b]0;title\u0007\u001b[2J\nnext'
    const job = jobOf({ command: evil, name: evil, message: evil, labels: { [evil]: evil } })
    const shown = text(jobLines(job, [executionOf({ message: evil, owner: evil })], PLAIN))
    expect(shown).toBe(stripVTControlCharacters(shown))
    expect(shown).not.toContain('\nnext')
    expect(formatTable(executionColumns(job), [executionOf({ owner: evil })], PLAIN)).not.toContain('\u001b')
  })

  test('ends as its command did, or says why it has no result', () => {
    expect(exitCodeOfJob(done, 1000)).toBe(3)
    const succeeded = { ...result, status: 'succeeded', exitCode: 0 }
    expect(exitCodeOfJob(jobOf({ status: 'completed', result: succeeded }), 1000)).toBe(0)
    const timeout = jobOf({ status: 'completed', result: { ...result, status: 'timeout', exitCode: null } })
    expect(() => exitCodeOfJob(timeout, 1000)).toThrow(expect.objectContaining({ exitCode: 124 }))
    for (const status of ['failed', 'no_consensus', 'cancelled', 'running'])
      expect(() => exitCodeOfJob(jobOf({ status, message: 'as it is' }), 1000)).toThrow(
        expect.objectContaining({ exitCode: 125 }),
      )
  })

  test('its progress is one line', () => {
    const progress = jobProgress()
    const take = (event: object) => progress.take({ at, seq: 1, ...event } as JobEvent)
    take({ type: 'waiting', waiting: { nodes: 0, busy: 0, stopped: {}, message: 'no node is there', since: at } })
    expect(progress.text()).toBe('submitted · no node is there')
    take({ type: 'status', status: 'running' })
    for (const execution of ['a', 'b']) take({ type: 'execution', execution, node, status: 'running' })
    take({ type: 'execution', execution: 'a', node, status: 'completed' })
    expect(progress.text()).toBe('running · 1 completed, 1 running')
  })
})

test('evidence: each receipt, what is wrong, and whether it holds', () => {
  const receipt = { node, execution: 'exe_1', owner: 'ada', validity: 'agreed', signed: true, counts: true }
  const report = { valid: true, job: done.id, needed: 1, nodes: [node], owners: ['ada'], receipts: [receipt] }
  const good = evidenceLines({ ...report, faults: [], resultChecked: true } as unknown as EvidenceReport, PLAIN)
  expect(good[0]).toBe(`  ✓ signed by ${node} (ada): exe_1 agreed`)
  expect(good.at(-1)).toBe('  ✓ 1 node signed this result, 1 needed; checked here, with the result itself')
  const faults = [{ code: 'bad_signature', message: 'receipt of exe_1: nobody did' }]
  const bad = { ...report, valid: false, faults, receipts: [{ ...receipt, signed: false }] }
  const lines = evidenceLines({ ...bad, resultChecked: false } as unknown as EvidenceReport, PLAIN)
  expect(text(lines)).toMatch(/✗ not signed .*\n {2}bad_signature {2}receipt of exe_1: nobody did\n {2}✗ the evidence/)
})

describe('a network', () => {
  const networkNode: NetworkNode = networkNodeSchema.parse({
    ...{ id: node, name: 'one', owner: 'ada', status: 'suspended', message: 'it lied', running: 2, registeredAt: at },
    report: {
      ...{ version: '1', cpus: 8, memoryMb: 4096, diskMb: 1, slots: 4, isolation: ['container'] },
      ...{ platform: 'x64', speed: 120.4, region: 'eu' },
    },
    trust: {
      ...{ score: 105, correctness: 0.91, availability: 0.8, speed: 1.5, agreements: 12, established: true },
      disagreements: 1,
    },
    free: { slots: 2, cpus: 6.123, memoryMb: 1000 },
  })

  test('its nodes in a table', () => {
    const [, line] = formatTable(NODE_COLUMNS, [networkNode], PLAIN).split('\n')
    expect(line).toMatch(
      /^0x0a0a0a0a +one +ada +suspended +105 +0\.910 +0\.800 +1\.50 +12 ● +2\/4 +6\.12 cpus, 1000 MiB/,
    )
    expect(line).toMatch(/eu +never +it lied$/)
  })

  test('one node, with its record', () => {
    const record = [{ seq: 1, node: networkNode.id, kind: 'disagreed' as const, job: done.id, ms: 12, at }]
    const lines = text(nodeLines(networkNode, record, PLAIN))
    expect(lines).toContain('12 agreed, 1 did not; established')
    expect(lines).toMatch(new RegExp(`disagreed +${shortId(done.id)} +12 ms`))
  })

  test('as a whole', () => {
    const stats: NetworkStats = networkStatsSchema.parse({
      ...{ network: `0x${'00'.repeat(32)}`, version: '1', publicKey, jobs: { pending: 1, failed: 0 }, nodes: {} },
      ...{ executions: { running: 1, waiting: 2 }, copiesPerJob: 2, verifiedPerSecond: 10 },
      ...{ credits: { issued: 5, held: 1, earned: 2 }, uptimeMs: 61_000 },
    })
    const lines = text(statsLines(stats, PLAIN))
    expect(lines).toMatch(/jobs +1 pending\n +nodes +none\n +executions +1 running, 2 waiting/)
    expect(lines).toContain('1m01s')
  })

  test('a node by itself is told from one that lacks what was asked for', async () => {
    const error = (code: string, detail: string) => Promise.reject(Object.assign(new Error(code), { code, detail }))
    await expect(ofNetwork(error('not_found', 'there is no route `GET /stats`'))).rejects.toThrow('no network')
    await expect(ofNetwork(error('not_found', 'no job job_1'))).rejects.toMatchObject({ code: 'not_found' })
    await expect(ofNetwork(error('forbidden', 'GET /stats'))).rejects.toMatchObject({ code: 'forbidden' })
  })
})
