import { createHash } from 'node:crypto'
import { type JobRequestInput, jobResultSchema } from '@bramble/protocol'

/** What is submitted: the same to every queue. */
export const jobBody = {
  command: ['echo', 'hello from the network'],
  image: 'base',
  env: { LANG: 'C', STEP: '17', INPUT: 's3://bucket/inputs/part-00017.jsonl' },
  labels: { team: 'vision', run: '2026-11-21' },
  name: 'part 17',
} satisfies JobRequestInput

const stdout = 'hello from the network\n'
const contentOf = (content: string) => ({
  encoding: 'utf8' as const,
  content,
  sizeBytes: Buffer.byteLength(content),
  sha256: createHash('sha256').update(content).digest('hex'),
})

/** What comes back of it. */
export const jobResult = jobResultSchema.parse({
  status: 'succeeded',
  exitCode: 0,
  stdout: contentOf(stdout),
  stderr: contentOf(''),
  truncated: false,
  outputs: {},
})
