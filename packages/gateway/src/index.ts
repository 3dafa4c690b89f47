export { DEFAULT_LIMITS, type GatewayLimits } from './limits.ts'
export { createMetrics, type Metrics } from './metrics.ts'
export { type Gateway, type GatewayOptions, openGateway } from './open-gateway.ts'
export type { RouteTokens } from './route-tokens.ts'
