import type { NetworkNode } from '@bramble/sdk'
import { formatAge } from '../format.ts'
import type { Column } from '../terminal.ts'
import { shortId } from './short-id.ts'

export const NODE_STYLES: Readonly<Record<NetworkNode['status'], 'red' | 'green' | 'yellow' | 'cyan'>> = {
  online: 'green',
  suspect: 'yellow',
  offline: 'red',
  draining: 'yellow',
  drained: 'yellow',
  suspended: 'red',
}

const round = (value: number): string => String(Math.round(value * 100) / 100)

export const NODE_COLUMNS: Column<NetworkNode>[] = [
  { title: 'ID', text: ({ id }) => shortId(id), style: () => 'yellow' },
  { title: 'NAME', text: ({ name }) => name ?? '', spare: 0 },
  { title: 'OWNER', text: ({ owner }) => owner },
  { title: 'STATUS', text: ({ status }) => status, style: ({ status }) => NODE_STYLES[status] },
  { title: 'SCORE', text: ({ trust }) => String(trust.score), right: true },
  { title: 'CORRECT', text: ({ trust }) => trust.correctness.toFixed(3), right: true, spare: 2 },
  { title: 'AVAILABLE', text: ({ trust }) => trust.availability.toFixed(3), right: true, spare: 3 },
  { title: 'SPEED', text: ({ trust }) => trust.speed.toFixed(2), right: true, spare: 4 },
  {
    title: 'AGREED',
    text: ({ trust }) => `${trust.agreements}${trust.established ? ' ●' : ''}`,
    style: ({ trust }) => (trust.established ? 'green' : undefined),
    right: true,
  },
  { title: 'RUNNING', text: ({ running, report }) => `${running}/${report.slots}`, right: true },
  { title: 'FREE', text: ({ free }) => `${round(free.cpus)} cpus, ${Math.round(free.memoryMb)} MiB`, spare: 5 },
  { title: 'REGION', text: ({ report }) => report.region ?? '', spare: 1 },
  { title: 'SEEN', text: ({ lastSeenAt }) => (lastSeenAt === undefined ? 'never' : formatAge(lastSeenAt)) },
  { title: '', text: ({ message }) => message ?? '', spare: 0 },
]
