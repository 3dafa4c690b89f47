import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { loadIdentity } from '@bramble/identity/node'
import {
  type NetworkNode,
  networkNodeSchema,
  parse,
  type ReputationEntry,
  reputationPageSchema,
} from '@bramble/protocol'
import { networkClock, signedRequests } from '@bramble/worker'
import { EXIT, ExitError } from '../exit.ts'
import { readWorkerFile } from './worker-file.ts'

const RECORD_ENTRIES = 20

/** How its network sees the node of a data directory, asked under the node's own key. */
export const workerStanding = async (
  dataDirectory: string,
  signal: AbortSignal,
): Promise<{ node: NetworkNode; reputation: ReputationEntry[] }> => {
  const joined = readWorkerFile(dataDirectory)
  const keyFile = join(dataDirectory, 'node.key')
  if (joined === undefined || !existsSync(keyFile))
    throw new ExitError(
      EXIT.failure,
      `no node of ${dataDirectory} has joined a network`,
      '`bramble worker join <url>` joins one.',
    )
  const identity = await loadIdentity(keyFile)
  const requests = signedRequests(joined.url, identity, networkClock())
  const path = `nodes/${identity.id}`
  const get = (more: string): Promise<unknown> => requests.json({ method: 'GET', path: `${path}${more}`, signal })
  const [node, record] = await Promise.all([get(''), get(`/reputation?limit=${RECORD_ENTRIES}`)])
  return { node: parse(networkNodeSchema, node), reputation: parse(reputationPageSchema, record).items }
}
