import type { LiveSocket } from './live-socket.ts'

interface Input {
  write(data: Uint8Array): Promise<void>
}

/**
 * Standard input on its way from one client to commands that may not read it. Past the bound the client is not heard any more
 * until some of it was taken.
 */
export const pendingInput = (socket: LiveSocket, maxBytes: number) => {
  let pending = 0
  let release: (() => void) | undefined
  const taken = (bytes: number): void => {
    pending -= bytes
    if (pending > maxBytes / 2) return
    release?.()
    release = undefined
  }
  return {
    /** In the order of the calls. What a command that is gone does not take is thrown away. */
    write: (input: Input, data: Uint8Array): void => {
      pending += data.length
      if (pending > maxBytes) release ??= socket.hold()
      input.write(data).then(
        () => taken(data.length),
        () => taken(data.length),
      )
    },
  }
}
