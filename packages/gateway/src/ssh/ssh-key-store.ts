import { type Migration, openDatabase } from '@bramble/engine'
import { BrambleError, newId, type SshKey, type SshKeyId, sshKeySchema } from '@bramble/protocol'
import { parsePublicKey } from './public-key.ts'

/**
 * The public keys of all tenants, in the gateway's database. All are in memory; a change is on disk before its call returns.
 * One key may belong to several tenants: a person who works for both.
 */
export interface SshKeyStore extends AsyncDisposable {
  /** The tenants whose key it is, in base64. */
  tenantsOf(blob: string): string[]
  list(tenant: string): SshKey[]
  /** Rejects with `conflict` for a key that the tenant has, `quota_exceeded` past `maxKeysPerTenant`. */
  add(tenant: string, request: { name: string; publicKey: string }): Promise<SshKey>
  remove(tenant: string, id: SshKeyId): Promise<void>
  close(): Promise<void>
}

interface Row {
  id: string
  name: string
  tenant: string
  type: string
  blob: string
  fingerprint: string
  created_at: string
}

interface Entry {
  readonly key: SshKey
  readonly blob: string
}

const MAX_KEYS_PER_TENANT = 256

const MIGRATIONS: readonly Migration[] = [
  {
    name: '1-ssh-keys',
    up: async (db) => {
      await db.schema
        .createTable('ssh_keys')
        .addColumn('id', 'text', (column) => column.primaryKey())
        .addColumn('name', 'text', (column) => column.notNull())
        .addColumn('tenant', 'text', (column) => column.notNull())
        .addColumn('type', 'text', (column) => column.notNull())
        .addColumn('blob', 'text', (column) => column.notNull())
        .addColumn('fingerprint', 'text', (column) => column.notNull())
        .addColumn('created_at', 'text', (column) => column.notNull())
        .addUniqueConstraint('ssh_keys_of_tenant', ['tenant', 'fingerprint'])
        .execute()
    },
  },
]

export const openSshKeyStore = async (path: string): Promise<SshKeyStore> => {
  const db = await openDatabase<{ ssh_keys: Row }>({ path, owner: 'gateway-ssh', migrations: MIGRATIONS })
  const entries = new Map<string, Entry>()
  for (const row of await db.selectFrom('ssh_keys').selectAll().orderBy('id').execute())
    entries.set(row.id, { key: keyOf(row), blob: row.blob })
  const ofTenant = (tenant: string): Entry[] => [...entries.values()].filter(({ key }) => key.tenant === tenant)
  let closed: Promise<void> | undefined
  const close = (): Promise<void> => {
    closed ??= db.destroy()
    return closed
  }
  return {
    tenantsOf: (blob) => [...entries.values()].filter((entry) => entry.blob === blob).map(({ key }) => key.tenant),
    list: (tenant) => ofTenant(tenant).map(({ key }) => key),
    add: async (tenant, { name, publicKey }) => {
      const { type, blob, fingerprint } = parsePublicKey(publicKey)
      const known = ofTenant(tenant)
      if (known.some(({ key }) => key.fingerprint === fingerprint))
        throw new BrambleError('conflict', { detail: `the key ${fingerprint} is there already` })
      if (known.length >= MAX_KEYS_PER_TENANT)
        throw new BrambleError('quota_exceeded', { detail: `the tenant has ${MAX_KEYS_PER_TENANT} SSH keys` })
      const key: SshKey = { id: newId('sshKey'), name, tenant, type, fingerprint, createdAt: new Date().toISOString() }
      // Before the disk has it, so that the same key twice at once is a conflict too.
      entries.set(key.id, { key, blob })
      try {
        const { id, createdAt: created_at } = key
        await db.insertInto('ssh_keys').values({ id, name, tenant, type, blob, fingerprint, created_at }).execute()
      } catch (error) {
        entries.delete(key.id)
        throw error
      }
      return key
    },
    remove: async (tenant, id) => {
      const entry = entries.get(id)
      if (entry?.key.tenant !== tenant) throw new BrambleError('not_found', { detail: `there is no SSH key \`${id}\`` })
      entries.delete(id)
      try {
        await db.deleteFrom('ssh_keys').where('id', '=', id).execute()
      } catch (error) {
        entries.set(id, entry)
        throw error
      }
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

const keyOf = ({ id, name, tenant, type, fingerprint, created_at }: Row): SshKey =>
  sshKeySchema.parse({ id, name, tenant, type, fingerprint, createdAt: created_at })
