import { open, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { type KeyStore, newKeyText } from './key-store.ts'

/**
 * Makes the admin key of a node that has none, and leaves it in `<dataDirectory>/admin.key` for the CLI of this host.
 * The file is whole on disk before the key counts: a crash in between leaves no key that nobody knows.
 */
export const ensureAdminKey = async (keys: KeyStore, dataDirectory: string): Promise<string | undefined> => {
  if (keys.list().some((key) => key.scopes.includes('admin'))) return undefined
  const key = newKeyText()
  const path = join(dataDirectory, 'admin.key')
  const file = await open(`${path}.new`, 'w', 0o600)
  try {
    await file.chmod(0o600)
    await file.writeFile(`${key}\n`)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(`${path}.new`, path)
  await keys.create({ name: 'admin', tenant: 'default', scopes: ['execute', 'read', 'admin'], quota: {} }, key)
  return key
}
