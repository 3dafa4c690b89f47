import type { Snapshot } from '@bramble/sdk'
import { formatAge, formatBytes, formatMs } from '../format.ts'
import type { Column } from '../terminal.ts'

/** What a person calls it: its name, else as much of its hash as no other has. */
export const calledSnapshot = ({ name, id }: Pick<Snapshot, 'name' | 'id'>): string => name ?? shortId(id)

/** Of a hash its first 12 characters, anything else as it is. */
export const shortId = (id: string): string => (/^[0-9a-f]{64}$/.test(id) ? id.slice(0, 12) : id)

export const memoryText = ({ memory }: Pick<Snapshot, 'memory'>): string => {
  if (memory === undefined) return '-'
  const { processes, sizeBytes, trusted } = memory
  const count = `${processes.length} process${processes.length === 1 ? '' : 'es'}`
  return `${count}, ${formatBytes(sizeBytes)}${trusted ? '' : ' (not trusted)'}`
}

export const expiryText = ({ expiresAt }: Pick<Snapshot, 'expiresAt'>): string =>
  expiresAt === null ? '' : `in ${formatMs(Math.max(0, Date.parse(expiresAt) - Date.now()))}`

export const SNAPSHOT_COLUMNS: Column<Snapshot>[] = [
  { title: 'ID', text: ({ id }) => shortId(id), style: () => 'yellow' },
  { title: 'NAME', text: ({ name }) => name ?? '' },
  { title: 'TAKEN', text: ({ createdAt }) => formatAge(createdAt) },
  { title: 'FILES', text: ({ filesBytes }) => formatBytes(filesBytes), right: true },
  { title: 'MEMORY', text: memoryText },
  { title: 'ADDED', text: ({ addedBytes }) => formatBytes(addedBytes), right: true },
  { title: 'STORED', text: ({ stored }) => stored, style: ({ stored }) => (stored === 'shared' ? 'green' : undefined) },
  { title: 'EXPIRES', text: expiryText },
  {
    title: 'OF',
    text: ({ origin, source }) => (source === undefined || origin === 'merge' ? origin : shortId(source)),
  },
]
