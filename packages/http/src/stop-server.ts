import { BrambleError } from '@bramble/protocol'
import type { FastifyInstance } from 'fastify'
import type { HttpContext } from './context.ts'
import { destroyUpgraded } from './upgrades.ts'

/** How long an answer that is ready may take to reach a slow client. */
const FLUSH_MS = 2_000

/** Stops listening, closes what is idle, and cuts what has not taken its answer in time, WebSockets too. */
export const stopServer = async (app: FastifyInstance, flushMs = FLUSH_MS): Promise<void> => {
  const timer = setTimeout(() => {
    app.server.closeAllConnections()
    destroyUpgraded(app.server)
  }, flushMs)
  try {
    await app.close()
  } finally {
    clearTimeout(timer)
  }
}

/** How long a cancelled request may take to answer, before its connection is cut. */
const CANCEL_MS = 5_000

/** Waits for the requests under way; cancels them when the grace is over, and waits a little for their answers. */
export const inFlightDone = async (
  { inFlight, shutdown }: Pick<HttpContext, 'inFlight' | 'shutdown'>,
  graceMs: number,
): Promise<void> => {
  const idle = new Promise<void>((resolve) => {
    shutdown.idle = resolve
    if (inFlight.size === 0) resolve()
  })
  if (await within(idle, graceMs)) return
  for (const controller of inFlight)
    controller.abort(new BrambleError('shutting_down', { detail: 'the server closed before this ended' }))
  await within(idle, CANCEL_MS)
}

const within = async (work: Promise<void>, ms: number): Promise<boolean> => {
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const timer = setTimeout(resolve, ms, false)
  try {
    return await Promise.race([work.then(() => true), promise])
  } finally {
    clearTimeout(timer)
  }
}
