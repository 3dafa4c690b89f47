/** A WebSocket as the client uses it, whatever the platform's is like. */
export interface Socket {
  /** The next message, text or bytes, in order; undefined once the socket has closed. Not reading is what slows the sender. */
  next(): Promise<string | Uint8Array | undefined>
  /** Why it closed. Undefined while it is open. */
  readonly end: SocketEnd | undefined
  /** Resolves when more may be sent; undefined: at once. After the socket has closed it does nothing. */
  send(data: string | Uint8Array): Promise<void> | undefined
  /** Says goodbye; nothing new is read. Safe at any time, any number of times. */
  close(code?: number): void
  /** When it last heard of the other side, in milliseconds since 1970; of its pings too, where the platform tells of them. */
  readonly heardAt: number
  readonly hearsPings: boolean
  /** Breaks the connection without a goodbye: for one that no longer answers. */
  terminate(): void
}

export interface SocketEnd {
  /** Of RFC 6455, section 7.4; 1006 where the connection broke. */
  readonly code: number
  readonly reason: string
  /** Of the client itself: what came was not taken in time, or was no message. */
  readonly error?: Error
}

export interface SocketRequest {
  /** `ws:` or `wss:`. */
  readonly url: string
  readonly apiKey: string | undefined
  /** Ends the attempt; an open socket no longer heeds it. */
  readonly signal: AbortSignal
}

export interface SocketOpener {
  /** Whether a refusal is told as the node's own error. */
  readonly saysWhy: boolean
  open(request: SocketRequest): Promise<Socket>
}
