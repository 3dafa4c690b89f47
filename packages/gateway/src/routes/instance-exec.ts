import type { InstanceExec } from '@bramble/engine'
import { type EventStream, json } from '@bramble/http'
import {
  type ExecResult,
  execEventSchema,
  execRequestSchema,
  execResultSchema,
  instanceParamsSchema,
} from '@bramble/protocol'
import { eventSender } from '../event-pump.ts'
import { route } from '../route.ts'

/** Runs a command in an instance. Clients of the streaming API know instances as containers. */
const exec = (kind: 'instances' | 'containers') =>
  route({
    method: 'POST',
    path: `/api/v1/${kind}/:id/exec`,
    tag: 'instances',
    summary: 'Run a command in an instance',
    description:
      'Answers when the command ends; a command that exits non-zero is a result, not an error. With `Accept: text/event-stream` its events come as they happen. Closing the connection kills the command. A paused instance is resumed.',
    scope: 'execute',
    params: instanceParamsSchema,
    body: execRequestSchema,
    answer: { status: 200, description: 'The result', schema: execResultSchema },
    events: execEventSchema,
    errors: ['not_found', 'conflict', 'instance_stopped', 'sandbox_died'],
    handle: async (call, { engine }) => {
      const { signal, streaming } = call
      using lease = await engine.instances.use(call.params.id, call.caller.tenant, { signal })
      const running = lease.exec(call.body, { signal, stream: streaming })
      if (!streaming) return json(200, await running.result)
      // Its rejection is told as the stream's last event.
      running.result.catch(() => {})
      return json(200, await sendEvents(running, call.openStream()))
    },
  })

const sendEvents = async (running: InstanceExec, stream: EventStream): Promise<ExecResult> => {
  const send = eventSender(stream)
  for await (const event of running) await send(event)
  const result = await running.result
  const { exitCode: code, signal } = result
  await send({ type: 'exit', code, ...(signal !== undefined && { signal }) })
  await send({ type: 'result', result })
  return result
}

export const instanceExecRoutes = [exec('instances'), exec('containers')]
