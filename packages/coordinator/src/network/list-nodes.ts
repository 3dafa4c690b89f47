import type { NetworkNode, NodesQuery } from '@bramble/protocol'
import type { Page } from './network.ts'
import { type NodeRecord, nodeView } from './node-records.ts'
import type { WriterContext } from './writer-context.ts'

const hasLabel = ({ report }: NodeRecord, label: string): boolean => {
  const split = label.indexOf('=')
  if (split < 0) return label in report.labels
  return report.labels[label.slice(0, split)] === label.slice(split + 1)
}

/** By id. */
export const listNodes = (w: WriterContext, { limit, cursor, status, label }: NodesQuery): Page<NetworkNode> => {
  const fitting = [...w.nodes.values()]
    .filter(
      (record) =>
        (cursor === undefined || record.id > cursor) &&
        (status === undefined || record.status === status) &&
        (label === undefined || hasLabel(record, label)),
    )
    .sort((left, right) => (left.id < right.id ? -1 : 1))
  const page = fitting.slice(0, limit)
  const last = fitting.length > page.length ? page.at(-1) : undefined
  return { items: page.map((record) => nodeView(w, record)), nextCursor: last?.id ?? null }
}
