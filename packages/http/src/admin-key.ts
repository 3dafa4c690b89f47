import { join } from 'node:path'
import type { ApiKey, KeyRequest } from '@bramble/protocol'
import { newKeyText } from './keys.ts'
import { writeSecret } from './write-secret.ts'

interface AdminKeys {
  list(): ApiKey[]
  create(request: KeyRequest, text: string): Promise<unknown>
}

/**
 * Makes the admin key where there is none, and leaves it in `<dataDirectory>/admin.key` for the CLI of this host.
 * The file is whole on disk before the key counts: a crash in between leaves no key that nobody knows.
 */
export const ensureAdminKey = async (keys: AdminKeys, dataDirectory: string): Promise<string | undefined> => {
  if (keys.list().some((key) => key.scopes.includes('admin'))) return undefined
  const key = newKeyText()
  await writeSecret(join(dataDirectory, 'admin.key'), `${key}\n`)
  await keys.create({ name: 'admin', tenant: 'default', scopes: ['execute', 'read', 'admin'], quota: {} }, key)
  return key
}
