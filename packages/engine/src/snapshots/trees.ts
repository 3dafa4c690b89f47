import type { Lease } from '@bramble/blobs'
import type { BlobHash, SnapshotManifest } from '@bramble/protocol'
import { readManifest } from './content/manifest.ts'
import { storeSeal } from './content/store-seal.ts'
import { type Context, timeText } from './context.ts'
import { headsOf, isSnapshot } from './lineage.ts'
import { dropSeal, findSeal, holdSeal, newSealName, sealingOf } from './seals.ts'
import type { FoundState } from './state-ref.ts'
import { configOf } from './take.ts'

/** The files of a state, in the store. */
export interface StoredState {
  readonly manifest: SnapshotManifest
  /** The states that it is, or is made from. */
  readonly states: readonly string[]
}

interface Wish {
  readonly tenant: string
  readonly lease: Lease
  readonly signal: AbortSignal
}

/** A snapshot, or the files that an instance has now. */
export const storedState = async (context: Context, { kind, id }: FoundState, wish: Wish): Promise<StoredState> => {
  const { tenant, lease, signal } = wish
  if (kind === 'snapshot') {
    await lease.hold([id as BlobHash])
    return { manifest: await readManifest(context.blobs, id as BlobHash, { signal }), states: [id] }
  }
  const name = newSealName()
  const { sealed, states } = await context.instances.seal(
    id,
    tenant,
    { name, memory: false, signal },
    async (sealed) => ({ sealed, states: await headsOf(context, id) }),
  )
  const { seals } = sealingOf(context, sealed.runtime.name)
  try {
    const { manifest } = await storeSeal({
      store: context.blobs,
      lease,
      seals,
      seal: name,
      image: sealed.image,
      memory: false,
      takenAt: timeText(context.clock.now()),
      imageName: sealed.spec.image,
      config: configOf(sealed.spec, sealed),
      signal,
    })
    return { manifest, states }
  } finally {
    await dropSeal(context, seals, name)
  }
}

/** What a state that others descend from has: undefined where its bytes are gone. */
export const storedAncestor = async (
  context: Context,
  state: string,
  image: { readonly digest: string; readonly rootfs: string },
  config: SnapshotManifest['config'],
  { tenant, lease, signal }: Wish,
): Promise<SnapshotManifest | undefined> => {
  if (isSnapshot(state)) {
    const row = await context.db
      .selectFrom('snapshots')
      .select('hash')
      .where('tenant', '=', tenant)
      .where('hash', '=', state)
      .executeTakeFirst()
    if (row) return await readManifest(context.blobs, state, { signal })
  }
  const seal = await findSeal(context, tenant, state, false)
  if (!seal) return undefined
  using _held = holdSeal(context, seal.name)
  const { manifest } = await storeSeal({
    store: context.blobs,
    lease,
    seals: sealingOf(context, seal.runtime).seals,
    seal: seal.name,
    image,
    memory: false,
    takenAt: seal.created_at,
    config,
    signal,
  })
  return manifest
}
