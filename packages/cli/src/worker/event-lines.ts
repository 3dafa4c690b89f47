import type { SessionEvent } from '@bramble/worker'
import { formatCommand, formatMs } from '../format.ts'
import { shortId } from '../network/short-id.ts'
import { paint, safeLine } from '../terminal.ts'

const MAX_COMMAND_CHARS = 60

const cut = (text: string): string =>
  text.length > MAX_COMMAND_CHARS ? `${text.slice(0, MAX_COMMAND_CHARS - 1)}…` : text

export const executions = (count: number): string => (count === 1 ? '1 execution' : `${count} executions`)

/** What happens on a worker, as a line for a person; undefined for what only a log wants. */
export const eventLine = (event: SessionEvent, color: boolean): string | undefined => {
  const line = (style: Parameters<typeof paint>[0], word: string, ...rest: string[]): string =>
    [paint(style, word.padEnd(8), color), ...rest.map(safeLine)].join('  ').trimEnd()
  switch (event.type) {
    case 'open':
      return line('green', 'online', event.held > 0 ? `with ${executions(event.held)} from before` : '')
    case 'away':
      return line('yellow', 'away', event.error.detail, `trying again in ${formatMs(event.retryInMs)}`)
    case 'leased':
      return line('cyan', 'runs', shortId(event.lease.execution), cut(formatCommand(event.lease.spec.command)))
    case 'stopped':
      return line('dim', 'stopped', shortId(event.lease.execution), event.reason)
    case 'finished': {
      const { result, startedAtMs, finishedAtMs } = event.outcome
      const end = result.exitCode === null ? result.status : `exit ${result.exitCode}`
      return line('green', 'done', shortId(event.lease.execution), end, formatMs(finishedAtMs - startedAtMs))
    }
    case 'failed':
      return line('red', 'failed', shortId(event.lease.execution), `${event.error.code}: ${event.error.detail}`)
    case 'acknowledged':
      return event.error && line('red', 'refused', shortId(event.lease.execution), event.error.detail)
    default:
      return event satisfies never
  }
}

/** The same for a log. */
export const eventRecord = (event: SessionEvent): Record<string, unknown> => {
  switch (event.type) {
    case 'open':
      return { event: event.type, session: event.welcome.session, held: event.held }
    case 'away':
      return { event: event.type, code: event.error.code, detail: event.error.detail, retryInMs: event.retryInMs }
    case 'leased':
      return { event: event.type, job: event.lease.job, execution: event.lease.execution, token: event.lease.token }
    case 'stopped':
      return { event: event.type, execution: event.lease.execution, reason: event.reason }
    case 'finished': {
      const { result, startedAtMs, finishedAtMs } = event.outcome
      const { status, exitCode } = result
      return { event: event.type, execution: event.lease.execution, status, exitCode, ms: finishedAtMs - startedAtMs }
    }
    case 'failed':
      return { event: event.type, execution: event.lease.execution, code: event.error.code, detail: event.error.detail }
    case 'acknowledged':
      return { event: event.type, execution: event.lease.execution, ...(event.error && { code: event.error.code }) }
    default:
      return event satisfies never
  }
}
