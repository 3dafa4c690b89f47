import { createHmac } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'

/** Of a machine, whatever boots on it; of an installed system. The first is root's to read. */
const ID_FILES = ['/sys/class/dmi/id/product_uuid', '/etc/machine-id', '/var/lib/dbus/machine-id']
const PURPOSE = 'bramble/machine/1'
const MIN_ID_CHARS = 16

const idIn = (file: string): string | undefined => {
  try {
    const id = readFileSync(file, 'utf8').trim().toLowerCase()
    // A board whose maker gave it no number has zeros there.
    return id.length >= MIN_ID_CHARS && !/^[0f-]+$/.test(id) ? id : undefined
  } catch {
    return undefined
  }
}

/**
 * Equal on all nodes of one machine, and tells nothing else: a keyed hash, as machine-id(5) asks for, since the ids themselves are
 * confidential. Without any id it is the host's name.
 */
export const machineFingerprint = (files: readonly string[] = ID_FILES): string => {
  const id = files.map(idIn).find((found) => found !== undefined) ?? `hostname:${hostname()}`
  return createHmac('sha256', id).update(PURPOSE).digest('hex').slice(0, 40)
}
