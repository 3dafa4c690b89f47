import type { Branch, MergeConflict, Snapshot, SnapshotDiff } from '@bramble/sdk'
import { expect, test } from 'vitest'
import { type Family, treeText } from './branch-tree.ts'
import { conflictText } from './conflict-view.ts'
import { diffText } from './diff-view.ts'

const hash = (digit: string) => digit.repeat(64) as Snapshot['id']
const instanceId = (digit: string) => `ins_${digit.repeat(26)}` as Branch['instanceId']
const ago = (minutes: number): string => new Date(Date.now() - minutes * 60_000 - 1000).toISOString()

const instance = (digit: string, more: object = {}) =>
  ({ id: instanceId(digit), status: 'running', createdAt: ago(10), ...more }) as NonNullable<Branch['instance']>
const branch = (digit: string, parent: string, more: object = {}): Branch => ({
  instanceId: instanceId(digit),
  parent,
  parentKind: parent.startsWith('ins_') ? 'instance' : 'snapshot',
  createdAt: ago(5),
  memory: true,
  instance: instance(digit),
  ...more,
})
const snapshot = (digit: string, more: object = {}) =>
  ({
    id: hash(digit),
    createdAt: ago(7),
    filesBytes: 4096,
    origin: 'instance',
    labels: {},
    ...more,
  }) as Snapshot

const plain = { color: false, all: false }
const family = (parts: Partial<Family>): Family => ({
  branches: [],
  instances: [],
  snapshots: [],
  diskBytes: new Map(),
  ...parts,
})

test('a tree of instances, snapshots and branches, with state, age, size and memory', () => {
  const memory = { sizeBytes: 1024, processes: [{ pid: 2, command: 'sh' }], ports: [], trusted: true }
  const text = treeText(
    family({
      instances: [instance('1', { name: 'box', createdAt: ago(60) }), instance('9')],
      snapshots: [snapshot('a', { name: 'before', source: instanceId('1'), memory })],
      branches: [
        branch('2', instanceId('1'), { instance: instance('2', { status: 'paused' }) }),
        branch('3', hash('a'), { memory: false, createdAt: ago(4) }),
        branch('4', instanceId('2')),
      ],
      diskBytes: new Map([[instanceId('1'), 2048]]),
    }),
    plain,
  )
  const width = `│ └─● ${instanceId('3')}`.length
  expect(text.split('\n')).toEqual([
    `${`● ${instanceId('1')} box`.padEnd(width)}  running, 1h00m ago, 2.0 KiB`,
    `${'├─◆ aaaaaaaaaaaa before'.padEnd(width)}  snapshot, 7m01s ago, 4.0 KiB, memory of 1 process, 1.0 KiB`,
    `${`│ └─● ${instanceId('3')}`.padEnd(width)}  running, 4m01s ago`,
    `${`└─● ${instanceId('2')}`.padEnd(width)}  paused, 5m01s ago, with memory`,
    `${`  └─● ${instanceId('4')}`.padEnd(width)}  running, 5m01s ago, with memory`,
  ])
})

test('what is gone is shown where something descends from it, or all of it on request', () => {
  const gone = { instance: undefined }
  const branches = [
    branch('2', instanceId('1'), gone),
    branch('3', instanceId('2'), { createdAt: ago(3) }),
    branch('4', instanceId('1'), gone),
  ]
  const left = treeText(family({ branches }), plain)
  expect(left).toContain(`○ ${instanceId('1')}`)
  expect(left).toContain(`└─○ ${instanceId('2')}`)
  expect(left).not.toContain(instanceId('4'))
  expect(treeText(family({ branches }), { ...plain, all: true })).toContain(`○ ${instanceId('4')}`)
  expect(treeText(family({ branches }), { ...plain, root: instanceId('2') }).split('\n')).toHaveLength(2)
  expect(treeText(family({}), plain)).toBe('')
})

test('a circle of states is cut, not followed for ever', () => {
  const text = treeText(
    family({
      snapshots: [snapshot('a', { source: instanceId('1'), createdAt: ago(9) })],
      branches: [branch('1', hash('a'), { createdAt: ago(8) })],
    }),
    plain,
  )
  expect(text.split('\n')).toEqual([
    expect.stringContaining('◆ aaaaaaaaaaaa'),
    expect.stringContaining(`└─● ${instanceId('1')}`),
  ])
})

const diff = (items: SnapshotDiff['items'], truncated = false): SnapshotDiff => ({
  from: hash('a'),
  to: hash('b'),
  items,
  truncated,
  totals: { added: 2, changed: 2, removed: 1, addedBytes: 2048, removedBytes: 100 },
})

test('a diff has a sign, a path and sizes on each line, and the totals', () => {
  const text = diffText(
    diff(
      [
        { path: 'app', change: 'added', type: 'directory' },
        { path: 'app/new', change: 'added', type: 'file', afterBytes: 2048 },
        { path: 'etc/a', change: 'changed', type: 'file', beforeBytes: 10, afterBytes: 1536 },
        { path: 'etc/b', change: 'changed', type: 'file', beforeBytes: 1, afterBytes: 1, attributesOnly: true },
        { path: 'Yf8=', encoding: 'base64', change: 'removed', type: 'file', beforeBytes: 100 },
        { path: 'bad\u001b[2Jname', change: 'added', type: 'symlink' },
      ],
      true,
    ),
    { color: false },
  )
  expect(text.split('\n')).toEqual([
    '+ /app/',
    '+ /app/new             2.0 KiB',
    '~ /etc/a        10 B → 1.5 KiB',
    '~ /etc/b            attributes',
    '- /a\ufffd                    100 B',
    '+ /bad·[2Jname         symlink',
    '  … and more than these 6',
    '',
    '2 added (+2.0 KiB), 2 changed, 1 removed (-100 B)',
  ])
  expect(diffText(diff([{ path: 'x', change: 'removed', type: 'file' }]), { color: true })).toContain('\u001b[31m- /x')
  expect(diffText(diff([]), { color: false })).toContain('no file')
})

test('conflicts are a table: where, what, which lines, and how they were settled', () => {
  const conflicts: MergeConflict[] = [
    {
      path: 'etc/x',
      kind: 'content',
      branches: ['left', hash('c')],
      lines: [
        { from: 3, to: 5 },
        { from: 9, to: 9 },
        { from: 12, to: 11 },
      ],
    },
    { path: 'gone', kind: 'deleted', branches: ['left', 'right'] },
  ]
  expect(conflictText(conflicts, { color: false }).split('\n')).toEqual([
    'PATH    WHAT                                                BRANCHES',
    '/etc/x  both changed it: lines 3-5, line 9, before line 12  left, cccccccccccc',
    '/gone   one removed it, another changed it                  left, right',
  ])
  const settled = conflicts.map((one) => ({ ...one, settled: 'ours' as const }))
  expect(conflictText(settled, { color: false })).toContain('SETTLED')
})
