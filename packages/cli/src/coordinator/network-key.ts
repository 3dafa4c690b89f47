import { hash, hkdfSync } from 'node:crypto'
import { join } from 'node:path'
import { createIdentity, type Identity } from '@bramble/identity'
import { loadIdentity, wasmCurve } from '@bramble/identity/node'
import type { CoordinatorConfig } from './coordinator-config.ts'

/** What makes coordinators one network. All of it follows from the network's key, which is never told to anybody. */
export interface NetworkKey {
  readonly identity: Identity
  /** What receipts name the network by. */
  readonly networkId: string
  /** Audits are drawn with it. */
  readonly auditKey: Uint8Array
  /** By it coordinators know each other. */
  readonly linkSecret: Uint8Array
}

/** The network's key: of the cluster's secret, so that all coordinators have it; else of a file, made at the first start. */
export const loadNetworkKey = async ({ clusterSecret, dataDirectory }: CoordinatorConfig): Promise<NetworkKey> => {
  const identity =
    clusterSecret === undefined
      ? await loadIdentity(join(dataDirectory, 'network.key'))
      : createIdentity(new Uint8Array(hkdfSync('sha256', clusterSecret, '', 'bramble/network-key/1', 32)), wasmCurve())
  // A point of the key with itself: known to whoever has the key, and to nobody else.
  const derived = (purpose: string): Uint8Array => identity.sessionKey(identity.publicKey, Buffer.from(purpose))
  return {
    identity,
    networkId: `0x${hash('sha256', identity.publicKey)}`,
    auditKey: derived('bramble/audit/1'),
    linkSecret: derived('bramble/link/1'),
  }
}
