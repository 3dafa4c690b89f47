import { BrambleError, type JobId, type JobRequest, jobRequestSchema } from '@bramble/protocol'
import type { ClientHistory } from './client-history.ts'
import { between, pick, streamOf } from './scenario.ts'
import type { World } from './world.ts'

const jobForm = (random: () => number, name: string, nowMs: number): JobRequest => {
  const redundancy = between(random, 1, 4)
  const isDice = random() < 0.06
  return jobRequestSchema.parse({
    image: 'base',
    command: `${isDice ? 'dice' : 'sum'} ${name}`,
    redundancy,
    consensus: between(random, 1, Math.min(redundancy, 3)),
    policy: pick(random, ['quorum', 'quorum', 'quorum', 'fast', 'fast', 'fast', 'paranoid']),
    confidence: pick(random, [0.9, 0.99]),
    strategy: pick(random, ['lazy', 'lazy', 'eager']),
    priority: between(random, 0, 100),
    creditsRequired: between(random, 0, 4),
    ...(random() < 0.1 && { determinism: 'check' }),
    ...(random() < 0.15 && { deadline: new Date(nowMs + between(random, 3000, 60_000)).toISOString() }),
    ...(random() < 0.15 && { placement: { distinct: pick(random, [[], ['owner'], ['owner', 'machine']]) } }),
    resources: {
      cpus: pick(random, [0.5, 1, 2, 4]),
      memoryMb: pick(random, [256, 1024, 4096]),
      timeoutMs: between(random, 2000, 12_000),
    },
  })
}

/** Submits its jobs, some of them twice, asks how they are, cancels some, and writes down what it is told. */
export const startTenant = (world: World, history: ClientHistory, index: number): void => {
  const { loop, scenario } = world
  const tenant = `tenant-${index}`
  const lag = (random: () => number): number => between(random, 0, 20)

  const ask = (random: () => number, id: JobId): void => {
    const network = world.front()?.network
    if (!network) return
    const coordinator = world.front()
    const told = <T>(work: Promise<T>, take: (answer: T) => void): void => {
      work.then(
        (answer) => {
          if (coordinator?.isDead || coordinator?.isPaused) return
          take(answer)
        },
        (error: unknown) => {
          if (error instanceof BrambleError && (error.code === 'not_leader' || error.code === 'shutting_down')) return
          if (error instanceof BrambleError && error.code === 'not_found' && !history.acknowledged.has(id)) return
          world.checker.fail(`${tenant} asked for job ${id}: ${error instanceof Error ? error.stack : error}`)
        },
      )
    }
    const what = random()
    if (what < 0.4) told(network.jobs.get(id, tenant), (job) => history.seen(tenant, job))
    else if (what < 0.6) told(network.jobs.executions(id, tenant), (executions) => history.nothingEarly(id, executions))
    else if (what < 0.8) told(network.jobs.evidence(id, tenant), (evidence) => history.nothingEarly(id, evidence))
    else
      told(network.jobs.list({ limit: 5 }, tenant), ({ items }) => {
        for (const job of items) history.seen(tenant, job)
      })
  }

  const follow = async (id: JobId): Promise<void> => {
    const coordinator = world.front()
    let after = 0
    try {
      for await (const event of coordinator?.network?.jobs.events(id, tenant) ?? []) {
        if (coordinator?.isDead || coordinator?.isPaused) return
        history.event(tenant, id, event, after)
        if (event.type !== 'job') after = event.seq
      }
    } catch (error) {
      if (!(error instanceof BrambleError))
        world.checker.fail(`following job ${id}: ${error instanceof Error ? error.stack : error}`)
    }
  }

  for (let number = 0; number < scenario.jobs; number++) {
    const random = streamOf(scenario.seed, `${tenant} job ${number}`)
    if (number % scenario.tenants !== index) continue
    const at = between(random, 200, scenario.stormMs)
    // Keys are short, so that tenants have the same ones.
    const key = random() < 0.7 ? `key-${Math.floor(number / scenario.tenants)}` : undefined
    const other = random() < 0.05
    const cancelAfterMs = random() < 0.12 ? between(random, 0, 4000) : undefined
    let request: JobRequest | undefined
    let id: JobId | undefined

    const submit = (attempt: number): void => {
      const coordinator = world.front()
      request ??= jobForm(random, `${tenant}/${number}`, loop.now)
      if (!coordinator?.network) {
        again(attempt)
        return
      }
      const body = other && attempt === 3 ? 'another body' : 'body'
      history.submitting(tenant, key, body)
      const idempotency = key === undefined ? undefined : { key, digest: `${body} ${number}` }
      let isAnswered = false
      loop.after(3000, () => {
        if (!isAnswered && key !== undefined) again(attempt)
        isAnswered = true
      })
      coordinator.network.jobs.submit({ tenant, request, ...(idempotency && { idempotency }) }).then(
        ({ job, repeated }) => {
          // What a coordinator that is gone has said never arrived.
          if (coordinator.isDead || isAnswered) return
          history.submitted(tenant, key, body, job, repeated)
          isAnswered = true
          if (id === undefined) accepted(job.id)
        },
        (error: unknown) => {
          if (!(error instanceof BrambleError)) return world.checker.fail(`submitting: ${(error as Error).stack}`)
          if (isAnswered) return
          isAnswered = true
          if (error.code === 'idempotency_mismatch' && key !== undefined) history.mismatched(tenant, key)
          else if (error.code === 'not_leader' || error.code === 'shutting_down') again(attempt)
          else if (error.code !== 'insufficient_credits') world.checker.fail(`submitting: ${error.stack}`)
        },
      )
    }
    const again = (attempt: number): void => {
      if (attempt < 40) loop.after(between(random, 100, 1500), () => submit(attempt + 1))
    }
    const accepted = (job: JobId): void => {
      id = job
      world.log(() => `${tenant} has job ${job.slice(-6)}: ${JSON.stringify(summary(request))}`)
      if (key !== undefined && random() < 0.3) loop.after(between(random, 0, 5000), () => submit(2))
      if (random() < 0.3) void follow(job)
      for (let asked = between(random, 0, 5); asked > 0; asked--)
        loop.after(between(random, 0, 6000), () => ask(random, job))
      if (cancelAfterMs !== undefined)
        loop.after(cancelAfterMs, () => {
          world.log(() => `${tenant} cancels job ${job.slice(-6)}`)
          world
            .front()
            ?.network?.jobs.cancel(job, tenant)
            .catch(() => {})
        })
    }
    loop.after(at + lag(random), () => {
      submit(1)
      // Twice at once: a client that did not wait.
      if (key !== undefined && random() < 0.15) submit(1)
    })
  }
}

const summary = (request: JobRequest | undefined) => {
  if (!request) return {}
  const { policy, strategy, redundancy, consensus, placement, spec } = request
  return { policy, strategy, redundancy, consensus, distinct: placement.distinct, command: spec.command }
}
