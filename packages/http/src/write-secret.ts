import { open, rename } from 'node:fs/promises'

/** Writes a file that only its owner may read; it is whole on disk, or not there. */
export const writeSecret = async (path: string, content: string | Uint8Array): Promise<void> => {
  const file = await open(`${path}.new`, 'w', 0o600)
  try {
    await file.chmod(0o600)
    await file.writeFile(content)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(`${path}.new`, path)
}
