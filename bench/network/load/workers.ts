import { createHash, randomBytes } from 'node:crypto'
import { createIdentity, generateSecretKey, type Identity, requestDigest } from '@bramble/identity'
import { wasmCurve } from '@bramble/identity/node'
import { type Invite, type NodeRegistration, type NodeReport, nodeReportSchema, resultHash } from '@bramble/protocol'
import { type Outcome, openSession, type Session } from '@bramble/worker'
import { jobResult } from '../payload.ts'
import type { HttpPool } from './http-pool.ts'

const sha256 = (data: string | Uint8Array): string => createHash('sha256').update(data).digest('hex')

const RESULT_HASH = resultHash(
  {
    ...{ status: jobResult.status, exitCode: jobResult.exitCode },
    ...{ stdoutSha256: jobResult.stdout.sha256, stderrSha256: jobResult.stderr.sha256, outputs: {} },
  },
  sha256,
)
const INPUT_HASH = sha256('the same command')

/** What an execution that takes no time gives. Its receipt is signed for real. */
const outcomeNow = (): Outcome => {
  const now = Date.now()
  return {
    result: jobResult,
    ...{ inputHash: INPUT_HASH, resultHash: RESULT_HASH, cpuMs: 1, peakMemoryBytes: 1024 * 1024 },
    ...{ startedAtMs: now, finishedAtMs: now },
  }
}

const reportOf = (machine: string): NodeReport =>
  nodeReportSchema.parse({
    ...{ version: 'bench', cpus: 256, memoryMb: 256 * 1024, diskMb: 100_000, slots: 128, isolation: ['container'] },
    ...{ images: [{ name: 'base', digest: `sha256:${sha256('base')}` }], platform: 'bench', speed: 100, machine },
  })

/** By the words of the contract: headers `bramble-*`, a signature over the request's digest. */
const register = async (url: string, identity: Identity, registration: NodeRegistration): Promise<void> => {
  const path = '/api/v1/nodes/register'
  const body = JSON.stringify(registration)
  const timestampMs = Date.now()
  const nonce = randomBytes(16).toString('hex')
  const digest = requestDigest({ method: 'POST', path, bodySha256: sha256(body), timestampMs, nonce })
  const response = await fetch(new URL(path, url), {
    method: 'POST',
    body,
    headers: {
      'content-type': 'application/json',
      'bramble-node': identity.id,
      'bramble-timestamp': String(timestampMs),
      'bramble-nonce': nonce,
      'bramble-signature': identity.sign(digest),
    },
  })
  const text = await response.text()
  if (!response.ok) throw new Error(`registering: ${response.status} ${text}`)
}

export interface Workers extends AsyncDisposable {
  readonly sessions: readonly Session[]
  /** Executions that were handed in and acknowledged. */
  readonly acknowledged: number
  readonly refused: number
  /** Called with each lease, when it came. */
  onLease: ((job: string) => void) | undefined
}

export interface WorkersOptions {
  readonly url: string
  /** Of the API, as an administrator. */
  readonly api: HttpPool
  readonly count: number
  /** Established from the start, as those that whoever runs the network has. */
  readonly anchors: boolean
  /** Nodes that register at the same time. */
  readonly atOnce?: number
}

/** Nodes of one owner each, that speak the protocol of workers over sockets of their own, and run everything at once. */
export const openWorkers = async ({ url, api, count, anchors, atOnce = 16 }: WorkersOptions): Promise<Workers> => {
  const curve = wasmCurve()
  const ephemeral = (): Identity => createIdentity(generateSecretKey(), curve)
  const sessions: Session[] = []
  const workers = { sessions, acknowledged: 0, refused: 0, onLease: undefined as Workers['onLease'] }
  let next = 0
  const joinSome = async (): Promise<void> => {
    while (next < count) {
      const number = next++
      const invite = { owner: `owner-${number}`, anchor: anchors, maxNodes: 1, ttlMs: 3_600_000 }
      const invited = await api.request('POST', '/api/v1/invites', JSON.stringify(invite))
      if (invited.status !== 201) throw new Error(`inviting: ${invited.status} ${invited.body}`)
      const { token }: Invite = JSON.parse(invited.body)
      const identity = ephemeral()
      const report = reportOf(`machine-${number}`)
      await register(url, identity, { node: identity.id, publicKey: identity.publicKey, token, report })
      const session = openSession({
        ...{ url, identity, ephemeral, report },
        execute: async (lease) => {
          workers.onLease?.(lease.job)
          return outcomeNow()
        },
        onEvent: (event) => {
          if (event.type !== 'acknowledged') return
          if (event.error) workers.refused++
          else workers.acknowledged++
        },
      })
      sessions.push(session)
      await session.ready
    }
  }
  const close = async (): Promise<void> => {
    await Promise.all(sessions.map((session) => session.close()))
  }
  const joined = await Promise.allSettled(Array.from({ length: atOnce }, joinSome))
  const failed = joined.find((each) => each.status === 'rejected')
  if (failed) {
    await close()
    throw failed.reason
  }
  return Object.assign(workers, { [Symbol.asyncDispose]: close })
}
