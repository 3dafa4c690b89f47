import type { WebSocket } from 'ws'
import type { FrontLimits } from '../limits.ts'

export type PaceLimits = Pick<FrontLimits, 'sessionFramesPerSecond' | 'sessionBytesPerSecond' | 'maxPendingFrames'>

/**
 * How fast one worker is read: so many frames and bytes a second (a second's worth at once), and so many frames that are not taken
 * yet. Past them its socket is not read, and TCP tells it to wait.
 */
export class Pace {
  readonly #ws: WebSocket
  readonly #limits: PaceLimits
  #frames: number
  #bytes: number
  #atMs = performance.now()
  #pending = 0
  #timer: NodeJS.Timeout | undefined
  #isPaused = false
  #stopped = false

  constructor(ws: WebSocket, limits: PaceLimits) {
    this.#ws = ws
    this.#limits = limits
    this.#frames = limits.sessionFramesPerSecond
    this.#bytes = limits.sessionBytesPerSecond
  }

  /** A frame came, and waits to be taken. */
  took(bytes: number): void {
    this.#refill()
    this.#frames--
    this.#bytes -= bytes
    this.#pending++
    const waitMs = this.#waitMs()
    if (waitMs === 0 && this.#pending < this.#limits.maxPendingFrames) return
    this.#pause()
    if (waitMs > 0) this.#timer ??= setTimeout(() => this.#look(), waitMs)
  }

  /** A frame that came before is taken. */
  settled(): void {
    this.#pending--
    if (this.#isPaused && this.#timer === undefined) this.#look()
  }

  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
    this.#timer = undefined
    // Its closing frame is behind what was not read.
    if (this.#isPaused) this.#ws.resume()
    this.#isPaused = false
  }

  #refill(): void {
    const { sessionFramesPerSecond, sessionBytesPerSecond } = this.#limits
    const now = performance.now()
    const seconds = (now - this.#atMs) / 1000
    this.#atMs = now
    this.#frames = Math.min(sessionFramesPerSecond, this.#frames + seconds * sessionFramesPerSecond)
    this.#bytes = Math.min(sessionBytesPerSecond, this.#bytes + seconds * sessionBytesPerSecond)
  }

  #waitMs(): number {
    const { sessionFramesPerSecond, sessionBytesPerSecond } = this.#limits
    const seconds = Math.max(-this.#frames / sessionFramesPerSecond, -this.#bytes / sessionBytesPerSecond)
    return seconds <= 0 ? 0 : Math.ceil(seconds * 1000)
  }

  #pause(): void {
    if (this.#isPaused || this.#stopped) return
    this.#isPaused = true
    this.#ws.pause()
  }

  #look(): void {
    this.#timer = undefined
    if (this.#stopped || !this.#isPaused) return
    this.#refill()
    const waitMs = this.#waitMs()
    if (waitMs > 0) {
      this.#timer = setTimeout(() => this.#look(), waitMs)
      return
    }
    if (this.#pending >= this.#limits.maxPendingFrames) return
    this.#isPaused = false
    this.#ws.resume()
  }
}
