import { once } from 'node:events'
import { setTimeout as after } from 'node:timers/promises'
import type { Context } from './context.ts'
import type { Box, LiveInstance } from './live-instance.ts'

const SIGHUP = 1
const SIGTERM = 15
const LOOK_EVERY_MS = 20
/** The agent itself. */
const NOBODY = 1

/** SIGTERM to every process but the agent: kill(2) with -1 leaves out its caller and PID 1. */
const EVERYONE = ['/bin/sh', '-c', 'kill -TERM -1']

/** False where the image has no shell to do it, or it would reach too far. */
const signalEveryone = async (box: Box): Promise<boolean> => {
  // Without a process namespace of its own, "everyone" would be the host's.
  if (box.runtime.capabilities.isolation === 'none') return false
  for await (const event of box.sandbox.agent.exec({ argv: EVERYONE, stdin: 'none' }))
    if (event.type === 'exit') return event.kind !== 'failed'
  return false
}

/**
 * Asks every process of the sandbox to end, and waits while there are any, up to `stopGraceMs`. Processes of an image
 * without a shell are asked where they are commands, not where such a command left them behind.
 */
export const endPolitely = async ({ limits }: Context, live: LiveInstance, box: Box): Promise<void> => {
  const patience = AbortSignal.timeout(limits.stopGraceMs)
  const late = once(patience, 'abort')
  // The sandbox may be gone already, or not answer: what is left of it is destroyed.
  await Promise.race([askAll(live, box, patience).catch(() => {}), late])
}

const askAll = async (live: LiveInstance, box: Box, patience: AbortSignal): Promise<void> => {
  const commands = () => [...live.stream.commands.values(), ...box.running]
  // An interactive shell takes no SIGTERM: what is on a terminal is told that the terminal is gone.
  for (const command of live.stream.commands.values()) if (command.pty) command.kill(SIGHUP)
  if (!(await signalEveryone(box))) for (const command of commands()) command.kill(SIGTERM)
  while (!patience.aborted) {
    if (commands().length === 0 && (await box.sandbox.stats()).processes <= NOBODY) return
    await after(LOOK_EVERY_MS)
  }
}
