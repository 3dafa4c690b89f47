import { hash } from 'node:crypto'
import { createIdentity, generateSecretKey } from '@bramble/identity'
import { loadIdentity, wasmCurve } from '@bramble/identity/node'
import { inputHash, type JobResult, nodeReportSchema, resultHash } from '@bramble/protocol'
import { type Execute, networkClock, openSession, signedRequests } from '@bramble/worker'
import { seeded } from './random.ts'

/**
 * A node in a process of its own that runs nothing: what a command gives follows from its text, after a short while. It keeps its
 * key over its lives, and says in JSON lines what happens.
 */
const settings = JSON.parse(process.argv[2] ?? '{}') as {
  url: string
  token: string
  keyFile: string
  machine: string
  seed: number
  mostMs: number
  /** How often it says something else than is right. */
  liesShare: number
}
/** The same image at all nodes of a test. */
const BASE = `sha256:${'ba'.repeat(32)}`
const sha256 = (text: string | Uint8Array): string => hash('sha256', text)
const say = (line: object): void => void process.stdout.write(`${JSON.stringify(line)}\n`)

const contentOf = (text: string) => ({
  encoding: 'utf8' as const,
  content: text,
  sizeBytes: Buffer.byteLength(text),
  sha256: sha256(text) as JobResult['stdout']['sha256'],
})

const random = seeded(settings.seed + process.pid)
const execute: Execute = async (lease, { signal, started }) => {
  const startedAtMs = Date.now()
  started()
  const ms = random() * settings.mostMs
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, ms)
    signal.addEventListener('abort', () => {
      clearTimeout(timer)
      resolve()
    })
  })
  const lies = random() < settings.liesShare
  const stdout = contentOf(lies ? `a lie of ${settings.machine}` : sha256(String(lease.spec.command)))
  const result: JobResult = {
    ...{ status: 'succeeded', exitCode: 0, stdout, stderr: contentOf(''), truncated: false, outputs: {} },
  }
  const digests = { stdoutSha256: result.stdout.sha256, stderrSha256: result.stderr.sha256, outputs: {} }
  return {
    result,
    inputHash: inputHash(lease.spec, BASE, sha256),
    resultHash: resultHash({ status: result.status, exitCode: result.exitCode, ...digests }, sha256),
    ...{ cpuMs: ms, peakMemoryBytes: 4096, startedAtMs, finishedAtMs: Date.now() },
  }
}

const identity = await loadIdentity(settings.keyFile)
const clock = networkClock()
const requests = signedRequests(settings.url, identity, clock)
const report = nodeReportSchema.parse({
  ...{ version: 'chaos', cpus: 64, memoryMb: 65_536, diskMb: 100_000, slots: 32, isolation: ['container'] },
  ...{ images: [{ name: 'base', digest: BASE }], machine: settings.machine },
  ...{ platform: 'chaos', speed: 100 },
})
const session = openSession({
  ...{ url: settings.url, identity, report, clock, execute },
  ephemeral: () => createIdentity(generateSecretKey(), wasmCurve()),
  register: async (signal) => {
    const json = { node: identity.id, publicKey: identity.publicKey, token: settings.token, report }
    await requests.json({ method: 'POST', path: 'nodes/register', json, signal })
  },
  onEvent: (event) => {
    if (event.type === 'open') say({ type: 'open', node: identity.id, held: event.held })
    if (event.type === 'away') say({ type: 'away', error: event.error.toProblem(), retryInMs: event.retryInMs })
    if (event.type === 'stopped') say({ type: 'stopped', execution: event.lease.execution, reason: event.reason })
    if (event.type === 'acknowledged' && event.error) say({ type: 'refused', ...event.lease, error: event.error })
  },
})
say({ type: 'begun', node: identity.id })
process.on('SIGTERM', () => void session.close({ graceMs: 1000 }).then(() => process.exit(0)))
const error = await session.ended
say({ type: 'ended', error: error?.toProblem() })
