import { openApiText } from '../openapi.ts'
import { type Route, route } from '../route.ts'
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

/** Every route of a node, its own description included. */
export const routeTable = (version: string): readonly Route[] => {
  let text: string | undefined
  const openapi = route({
    method: 'GET',
    path: '/openapi.json',
    tag: 'operations',
    summary: 'This API as OpenAPI 3.1',
    scope: 'public',
    answer: { status: 200, description: 'The document' },
    errors: [],
    handle: async () => {
      text ??= openApiText(table, version)
      return { status: 200, text }
    },
  })
  const table: Route[] = [
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
    openapi,
  ]
  return table
}
