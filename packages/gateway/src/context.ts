import type { Engine } from '@bramble/engine'
import type { Authenticator, HttpContext } from '@bramble/http'
import type { FastifyBaseLogger } from 'fastify'
import type { KeyStore } from './key-store.ts'
import type { GatewayLimits } from './limits.ts'
import type { LiveRegistry } from './live/live-registry.ts'
import type { Metrics } from './metrics.ts'
import type { PortProxy } from './ports/proxy.ts'
import type { Signatures } from './ports/signatures.ts'
import type { SshKeyStore } from './ssh/ssh-key-store.ts'

/** What routes work with: one gateway's parts. */
export interface GatewayContext extends HttpContext {
  readonly engine: Engine
  readonly keys: KeyStore
  readonly authenticate: Authenticator
  readonly metrics: Metrics
  readonly limits: GatewayLimits
  readonly version: string
  readonly startedAt: number
  /** A directory of the gateway's own for archives on their way in. */
  readonly uploadDirectory: string
  /** Told of the output that event streams carry. */
  readonly countOutput: (bytes: number) => void
  /** Bytes of the JSON bodies of requests under way, and of the archives in `uploadDirectory`. */
  readonly held: { bodyBytes: number; uploadBytes: number }
  /** WebSockets of instances. */
  readonly live: LiveRegistry
  readonly log?: FastifyBaseLogger | undefined
  readonly sshKeys: SshKeyStore
  readonly ports: {
    /** Host names below it lead to ports of instances. */
    readonly domain: string
    readonly signatures: Signatures
    readonly proxy: PortProxy
  }
}
