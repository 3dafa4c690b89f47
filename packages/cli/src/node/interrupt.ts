const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/**
 * Turns the first SIGINT, SIGTERM or SIGHUP into an abort of `signal`, for as long as it is not disposed of. A second one
 * ends the process at once: whoever asks twice means it.
 */
export const interrupt = (): { readonly signal: AbortSignal } & Disposable => {
  const controller = new AbortController()
  const listeners = SIGNALS.map((name) => {
    const listener = (): void => {
      if (controller.signal.aborted) process.exit(EXIT_CODES[name])
      controller.abort(new Interrupted(name))
    }
    process.on(name, listener)
    return { name, listener }
  })
  return {
    signal: controller.signal,
    [Symbol.dispose]() {
      for (const { name, listener } of listeners) process.off(name, listener)
    },
  }
}

/** 128 and the number of the signal, as a shell says it. */
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const

export class Interrupted extends Error {
  override readonly name = 'Interrupted'
  readonly exitCode: number
  constructor(signal: keyof typeof EXIT_CODES) {
    super(`ended by ${signal}`)
    this.exitCode = EXIT_CODES[signal]
  }
}
