export { ensureAdminKey } from './admin-key.ts'
export {
  type Authenticator,
  bearerOf,
  type Caller,
  keyAuthenticator,
  keyTextOf,
  mayDo,
  openAuthenticator,
  requireOrigin,
  requireScope,
  unknownKey,
} from './auth.ts'
export { byteRange } from './byte-range.ts'
export type { HttpContext, HttpLimits, NodeRequests } from './context.ts'
export { describedTable } from './described-table.ts'
export { type Handshake, handshakes } from './handshakes.ts'
export { createHttpMetrics, type HttpMetrics } from './http-metrics.ts'
export { type Answer, idempotencyMemory } from './idempotency.ts'
export { callerOf, hashOfKey, newKeyText } from './keys.ts'
export { hostInUrl, isLoopback } from './loopback.ts'
export { isOriginAllowed } from './origin.ts'
export { paginate } from './paginate.ts'
export { clientErrorResponse, presentable } from './problems.ts'
export { type TokenBucket, tokenBucket } from './rate-limit.ts'
export { parseJson } from './read-body.ts'
export { boundedBytes, drainBriefly, receiveBytes } from './receive-bytes.ts'
export { isUpload } from './register-routes.ts'
export { type Call, json, type Route, routesOf } from './route.ts'
export { sendBlob } from './send-blob.ts'
export { sendBytes } from './send-bytes.ts'
export { createServer } from './server.ts'
export { cutWhenStalled, type EventStream } from './sse.ts'
export { inFlightDone, stopServer } from './stop-server.ts'
export { refuseUpgrade, type Upgrade, type UpgradeHandler } from './upgrades.ts'
export { writeSecret } from './write-secret.ts'
