import { createHmac, type KeyObject } from 'node:crypto'
import { BrambleError, type Job, type JobId, newId } from '@bramble/protocol'
import { applyProfile } from '../core/determinism.ts'
import { jobView } from '../core/views.ts'
import { pump } from './dispatch.ts'
import { apply } from './job-flow.ts'
import type { SubmitJob } from './network.ts'
import { classOf } from './spec-class.ts'
import type { WriterContext } from './writer-context.ts'

/** Submissions under a key that are not in the store yet, or were a moment ago. */
export interface Repeats {
  readonly byKey: Map<string, { readonly job: JobId; readonly digest: string }>
}

const MAX_REPEATS = 50_000

/** Takes a job: what it holds, what it is, and where it can run at once are one write. */
export const submit = async (
  w: WriterContext,
  repeats: Repeats,
  command: SubmitJob,
  read: (id: JobId, tenant: string) => Promise<Job>,
): Promise<{ job: Job; repeated: boolean }> => {
  const { tenant, idempotency } = command
  const key = idempotency && JSON.stringify([tenant, idempotency.key])
  if (idempotency && key !== undefined) {
    const known =
      repeats.byKey.get(key) ?? (await w.store.idempotent(tenant, idempotency.key)) ?? repeats.byKey.get(key)
    if (known) {
      if (known.digest !== idempotency.digest)
        throw new BrambleError('idempotency_mismatch', {
          detail: `\`${idempotency.key}\` came first with another body`,
        })
      await w.outbox.durable()
      return { job: await read(known.job, tenant), repeated: true }
    }
  }
  admit(w, tenant)
  const id = newId('job', { now: w.now, ...(w.random && { random: w.random }) })
  const request = applyProfile(command.request)
  const { image } = request.spec
  const imageDigest = /^sha256:[0-9a-f]{64}$/.test(image) ? image : w.table.digestOf(image)
  w.accounts.open(tenant, w.config.grantCredits)
  w.accounts.hold(tenant, id, request.creditsRequired * request.redundancy)
  if (idempotency && key !== undefined) {
    repeats.byKey.set(key, { job: id, digest: idempotency.digest })
    if (repeats.byKey.size > MAX_REPEATS)
      for (const oldest of repeats.byKey.keys()) {
        repeats.byKey.delete(oldest)
        break
      }
  }
  const { distinct } = request.placement
  const determinismClass = classOf(w, tenant, request)
  const state = apply(
    w,
    id,
    {
      type: 'submitted',
      id,
      tenant,
      request,
      auditDraw: auditDraw(w.auditKey, id),
      relaxed: RELAXABLE.filter((each) => !(distinct ?? w.config.distinct).includes(each)),
      ...(imageDigest !== undefined && { imageDigest }),
      ...(determinismClass && { determinismClass }),
    },
    idempotency && { idempotency },
  )
  pump(w)
  const job = jobView(state)
  await w.outbox.durable()
  return { job, repeated: false }
}

const RELAXABLE = ['owner', 'machine', 'subnet'] as const

const admit = (w: WriterContext, tenant: string): void => {
  const retryAfterMs = 1000
  if (w.journal.full) throw new BrambleError('queue_full', { detail: 'the store is behind', retryAfterMs })
  if (w.jobs.size >= w.config.maxOpenJobs)
    throw new BrambleError('queue_full', { detail: `${w.jobs.size} jobs of this network have not ended`, retryAfterMs })
  if ((w.byTenant.get(tenant) ?? 0) >= w.config.maxTenantOpenJobs)
    throw new BrambleError('quota_exceeded', {
      detail: `${w.config.maxTenantOpenJobs} jobs of this tenant have not ended`,
      retryAfterMs,
    })
  const { maxOpenJobChars, maxTenantOpenJobChars } = w.config
  if (w.held.total >= maxOpenJobChars)
    throw new BrambleError('queue_full', { detail: 'jobs that have not ended take all the memory', retryAfterMs })
  if (w.held.of(tenant) >= maxTenantOpenJobChars)
    throw new BrambleError('quota_exceeded', {
      detail: `jobs of this tenant that have not ended, and their results, take ${maxTenantOpenJobChars} characters`,
      retryAfterMs,
    })
}

/** In [0, 1): the same for a job whatever happens, and known to nobody without the key. */
const auditDraw = (auditKey: KeyObject, id: JobId): number =>
  createHmac('sha256', auditKey).update(id).digest().readUIntBE(0, 6) / 2 ** 48
