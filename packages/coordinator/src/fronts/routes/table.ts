import { describedTable, type Route } from '@bramble/http'
import type { FrontContext } from '../front-context.ts'
import { blobRoutes } from './blobs.ts'
import { jobRoutes } from './jobs.ts'
import { keyRoutes } from './keys.ts'
import { nodeRoutes } from './nodes.ts'
import { operationRoutes } from './operations.ts'
import { routingRoutes } from './routing.ts'
import { workerRoutes } from './worker.ts'

const ROUTES: readonly Route<FrontContext>[] = [
  ...jobRoutes,
  ...nodeRoutes,
  ...workerRoutes,
  ...routingRoutes,
  ...blobRoutes,
  ...keyRoutes,
  ...operationRoutes,
]

/** Every route of a coordinator, its own description included. */
export const routeTable = (version: string): readonly Route<FrontContext>[] =>
  describedTable(ROUTES, {
    title: 'Bramble: a network',
    version,
    description:
      'Runs each job on several nodes, and takes only what enough of them agree on. Errors are problem documents (RFC 9457).',
  })
