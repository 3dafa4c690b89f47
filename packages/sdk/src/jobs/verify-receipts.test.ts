import { wasmCurve } from '@bramble/identity/node'
import { type JobEvidence, newId } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { agreement, contentOf } from '../../test/sample-job.ts'
import { verifyReceipts } from '../index.ts'

const curve = wasmCurve()
const codes = (report: ReturnType<typeof verifyReceipts>) => report.faults.map(({ code }) => code)
const word = `0x${'ab'.repeat(32)}`

test('what nodes signed holds, and says who speaks for it', () => {
  const { job, evidence, identities } = agreement()
  const report = verifyReceipts(evidence, { job })
  expect(report).toMatchObject({ valid: true, faults: [], needed: 2, resultChecked: true, resultHash: job.resultHash })
  expect(report.nodes).toEqual(identities.map(({ id }) => id))
  expect(report.owners).toEqual(['owner-0', 'owner-1'])
  expect(verifyReceipts(evidence)).toMatchObject({ valid: true, resultChecked: false })
})

test('a receipt that was changed, or signed by somebody else, is found', () => {
  const { evidence, receiptOf } = agreement()
  const [first, second] = evidence.receipts
  if (first === undefined || second === undefined) throw new Error('two receipts')
  const forged = structuredClone(second)
  forged.signed.receipt.cpuMs += 1
  expect(codes(verifyReceipts({ ...evidence, receipts: [first, forged] }, { curve }))).toEqual([
    'bad_signature',
    'too_few_nodes',
    'too_few_owners',
  ])
  const stolen = { ...receiptOf(0), publicKey: second.publicKey }
  expect(codes(verifyReceipts({ ...evidence, receipts: [stolen, second] }, { curve }))).toContain('not_its_key')
  const noKey = { ...first, publicKey: 'nonsense' }
  expect(codes(verifyReceipts({ ...evidence, receipts: [noKey, second] }, { curve }))).toContain('not_its_key')
})

test.each<[string, Parameters<ReturnType<typeof agreement>['receiptOf']>[1]]>([
  ['other_job', { job: newId('job') }],
  ['other_network', { network: word }],
  ['other_result', { resultHash: word }],
  ['other_input', { inputHash: word }],
])('%s: a good signature under something else does not count', (code, change) => {
  const { evidence, receiptOf } = agreement()
  const report = verifyReceipts({ ...evidence, receipts: [receiptOf(0), receiptOf(1, change)] }, { curve })
  expect(codes(report)).toEqual([code, 'too_few_nodes', 'too_few_owners'])
  expect(report.receipts.map(({ signed, counts }) => [signed, counts])).toEqual([
    [true, true],
    [true, false],
  ])
})

test('one node speaks once, and owners are counted', () => {
  const { job, evidence, receiptOf } = agreement()
  const twice = verifyReceipts({ ...evidence, receipts: [receiptOf(0), receiptOf(0)] }, { curve })
  expect(codes(twice)).toEqual(['repeated', 'too_few_nodes', 'too_few_owners'])
  const shared = { ...evidence, receipts: [receiptOf(0), { ...receiptOf(1), owner: 'owner-0' }] }
  expect(codes(verifyReceipts(shared, { curve }))).toEqual(['too_few_owners'])
  const relaxed = { ...job, diversity: 'relaxed' as const, relaxed: ['owner'] }
  expect(verifyReceipts(shared, { curve, job: relaxed }).valid).toBe(true)
})

test('those that did not agree count for nothing, and spoil nothing', () => {
  const { evidence, receiptOf } = agreement(3)
  const others: JobEvidence['receipts'] = [
    receiptOf(0),
    receiptOf(1),
    { ...receiptOf(2, { resultHash: word, inputHash: word }), validity: 'disagreed' },
  ]
  expect(verifyReceipts({ ...evidence, receipts: others }, { curve })).toMatchObject({ valid: true, faults: [] })
  const late = others.map((entry, index) => (index === 1 ? { ...entry, validity: 'late' as const } : entry))
  expect(codes(verifyReceipts({ ...evidence, receipts: late }, { curve }))).toEqual(['too_few_nodes', 'too_few_owners'])
})

test('the caller says whom it believes, how many, of which network and input', () => {
  const { evidence, identities } = agreement()
  const publicKeys = identities.map(({ publicKey }) => publicKey)
  expect(verifyReceipts(evidence, { curve, publicKeys }).valid).toBe(true)
  const one = verifyReceipts(evidence, { curve, publicKeys: publicKeys.slice(1) })
  expect(codes(one)).toEqual(['too_few_nodes', 'too_few_owners'])
  expect(one.nodes).toEqual([identities[1]?.id])
  expect(codes(verifyReceipts(evidence, { curve, consensus: 3 }))).toEqual(['too_few_nodes', 'too_few_owners'])
  expect(codes(verifyReceipts(evidence, { curve, network: word }))).toContain('other_network')
  expect(codes(verifyReceipts(evidence, { curve, inputHash: word }))).toContain('other_input')
})

test('the result that is shown must be the one that was signed', () => {
  const { job, evidence } = agreement()
  const { result } = job
  if (result === undefined) throw new Error('a result')
  const wrong = [
    { ...job, result: { ...result, exitCode: 1 } },
    { ...job, result: { ...result, status: 'failed' as const } },
    { ...job, result: { ...result, stdout: contentOf('other') } },
    { ...job, result: { ...result, stdout: { ...contentOf('hello ✓\n'), content: 'hello X\n' } } },
    { ...job, result: { ...result, outputs: {} } },
    { ...job, result: { ...result, outputs: { ...result.outputs, '/none': contentOf('') } } },
    { ...job, resultHash: word },
    { ...job, result: undefined },
  ]
  for (const each of wrong)
    expect(codes(verifyReceipts(evidence, { curve, job: each })), JSON.stringify(each)).toEqual(['result_differs'])
  expect(codes(verifyReceipts(evidence, { curve, job: agreement().job }))).toContain('other_job')
})

test('without a verdict there is nothing to hold', () => {
  const { evidence } = agreement()
  const { resultHash: _, ...open } = evidence
  expect(verifyReceipts({ ...open, status: 'no_consensus' }, { curve })).toMatchObject({ valid: false })
  expect(codes(verifyReceipts({ ...evidence, status: 'failed' }, { curve }))).toEqual(['no_verdict'])
})

test('results within tolerances count where the caller asked for that', () => {
  const { evidence, receiptOf } = agreement()
  const near = { ...evidence, receipts: [receiptOf(0), receiptOf(1, { resultHash: word })] }
  expect(verifyReceipts(near, { curve, comparator: 'fuzzy' }).valid).toBe(true)
})

test('what is no evidence is refused', () => {
  expect(() => verifyReceipts({} as JobEvidence)).toThrow(expect.objectContaining({ code: 'invalid_request' }))
})
