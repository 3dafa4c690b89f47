import { routesOf } from '@bramble/http'
import type { GatewayContext } from './context.ts'

/** Declares a route of a node. */
export const route = routesOf<GatewayContext>()
