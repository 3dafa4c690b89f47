import { describedTable, type Route } from '@bramble/http'
import type { GatewayContext } from '../context.ts'
import { batchRoutes } from './batch.ts'
import { blobRoutes } from './blobs.ts'
import { branchRoutes } from './branches.ts'
import { cacheRoutes } from './cache.ts'
import { executionRoutes } from './executions.ts'
import { imageRoutes } from './images.ts'
import { instanceExecRoutes } from './instance-exec.ts'
import { instanceFileRoutes } from './instance-files.ts'
import { instanceTreeRoutes } from './instance-trees.ts'
import { instanceRoutes } from './instances.ts'
import { keyRoutes } from './keys.ts'
import { liveRoutes } from './live.ts'
import { operationRoutes } from './operations.ts'
import { poolRoutes } from './pools.ts'
import { portRoutes } from './ports.ts'
import { snapshotFileRoutes } from './snapshot-files.ts'
import { snapshotRoutes } from './snapshots.ts'
import { sshKeyRoutes } from './ssh-keys.ts'
import { storeRoutes } from './store.ts'
import { usageRoutes } from './usage.ts'
import { volumeRoutes } from './volumes.ts'

const ROUTES: readonly Route<GatewayContext>[] = [
  ...executionRoutes,
  ...batchRoutes,
  ...instanceRoutes,
  ...instanceExecRoutes,
  ...instanceFileRoutes,
  ...instanceTreeRoutes,
  ...liveRoutes,
  ...portRoutes,
  ...snapshotRoutes,
  ...snapshotFileRoutes,
  ...branchRoutes,
  ...storeRoutes,
  ...imageRoutes,
  ...poolRoutes,
  ...keyRoutes,
  ...sshKeyRoutes,
  ...volumeRoutes,
  ...blobRoutes,
  ...cacheRoutes,
  ...usageRoutes,
  ...operationRoutes,
]

/** Every route of a node, its own description included. */
export const routeTable = (version: string): readonly Route<GatewayContext>[] =>
  describedTable(ROUTES, {
    title: 'Bramble: one node',
    version,
    description: 'Runs commands in fresh sandboxes. Errors are problem documents (RFC 9457).',
  })
