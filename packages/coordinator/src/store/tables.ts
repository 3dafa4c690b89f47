import type { JobStatus } from '@bramble/protocol'

/** Tables of a network. Keys are text as `keyText` makes it; times are milliseconds since 1970; JSON is text. */
export interface JobRow {
  id: string
  tenant: string
  status: JobStatus
  /** 1 until it has ended. */
  open: number
  idempotency_key: string | null
  idempotency_digest: string | null
  provisional_node: string | null
  provisional_until: number | null
  /** JSON; SQLite has it deflated when the job has ended, PostgreSQL compresses by itself. */
  state: string | Uint8Array
}

export interface LabelRow {
  job: string
  tenant: string
  name: string
  value: string
}

/** What one append recorded. */
export interface LogRow {
  seq: number
  last_seq: number
  epoch: number
  at: number
  /** A JSON array. */
  records: string
}

export interface DocumentRow {
  kind: string
  key: string
  /** Of JSON: its id as it was given, and its value. */
  body: string
}

export interface ReputationRow {
  node: string
  seq: number
  entry: string
}

export interface LedgerRow {
  seq: number
  kind: string
  from_account: string
  to_account: string
  amount: number
  job: string | null
  execution: string | null
  at: number
}

export interface Tables {
  jobs: JobRow
  job_labels: LabelRow
  /** Jobs by status, and amounts by kind of account: kept as they change, since counting a million takes too long. */
  job_counts: { status: JobStatus; jobs: number }
  account_totals: { kind: string; amount: number }
  log: LogRow
  documents: DocumentRow
  reputation: ReputationRow
  ledger: LedgerRow
  /** One row. `flush` counts the appends of the epoch. */
  writer: { id: number; epoch: number; flush: number; name: string; url: string; until: number }
  /** `checkpoint`, and the version of these tables (`schema`). */
  meta: { name: string; value: number }
}

/**
 * Statements that make the tables, by version. One that was released is never changed; another follows it. `key` is the type
 * of keys: compared byte by byte, so that a page's order is the same everywhere.
 */
const versions = (key: string, postgres: readonly (readonly string[])[]): readonly (readonly string[])[] => [
  [
    `create table jobs (
      id ${key} primary key, tenant ${key} not null, status ${key} not null, open integer not null,
      idempotency_key ${key}, idempotency_digest text, provisional_node ${key}, provisional_until bigint,
      state text not null)`,
    'create index jobs_of_tenant on jobs (tenant, id)',
    'create index jobs_by_status on jobs (tenant, status, id)',
    'create unique index jobs_by_idempotency on jobs (tenant, idempotency_key) where idempotency_key is not null',
    'create index jobs_provisional on jobs (provisional_node, provisional_until) where provisional_node is not null',
    'create index jobs_open on jobs (id) where open = 1',
    `create table job_labels (
      job ${key} not null, tenant ${key} not null, name ${key} not null, value ${key} not null,
      primary key (job, name))`,
    'create index job_labels_by_value on job_labels (tenant, name, value, job)',
    'create index job_labels_by_name on job_labels (tenant, name, job)',
    `create table job_counts (status ${key} primary key, jobs bigint not null)`,
    `create table account_totals (kind ${key} primary key, amount bigint not null)`,
    `create table log (
      seq bigint primary key, last_seq bigint not null, epoch bigint not null, at bigint not null,
      records text not null)`,
    `create table documents (kind ${key} not null, key ${key} not null, body text not null, primary key (kind, key))`,
    `create table reputation (node ${key} not null, seq bigint not null, entry text not null, primary key (node, seq))`,
    `create table ledger (
      seq bigint primary key, kind text not null, from_account ${key} not null, to_account ${key} not null,
      amount bigint not null, job text, execution text, at bigint not null)`,
    'create index ledger_from on ledger (from_account, seq)',
    'create index ledger_to on ledger (to_account, seq)',
    `create table writer (
      id integer primary key, epoch bigint not null, flush bigint not null, name text not null, url text not null,
      until bigint not null)`,
    "insert into writer values (1, 0, 0, '', '', 0)",
    "insert into meta values ('checkpoint', 0)",
    ...(postgres[0] ?? []),
  ],
]

/** Of each version, what PostgreSQL alone has: faster compression where it was built with it, and less to vacuum at a time. */
const ONLY_POSTGRES = [
  [
    `do $$ begin
      alter table jobs alter column state set compression lz4;
      alter table log alter column records set compression lz4;
    exception when feature_not_supported then null;
    end $$`,
    'alter table jobs set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02)',
    'alter table log set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)',
  ],
]

/** What brings tables of the version `from` up to date: nothing where they are. Throws for those of a later Bramble. */
export const schemaSteps = (dialect: 'sqlite' | 'postgres', from: number): string[] => {
  const all = dialect === 'postgres' ? versions('text collate "C"', ONLY_POSTGRES) : versions('text', [])
  if (from > all.length) throw new Error(`its tables have version ${from}, and this Bramble knows ${all.length}`)
  const steps = all.slice(from).flat()
  return steps.length === 0 ? [] : [...steps, `update meta set value = ${all.length} where name = 'schema'`]
}

export const META_TABLE = [
  'create table if not exists meta (name varchar(64) primary key, value bigint not null)',
  "insert into meta values ('schema', 0) on conflict do nothing",
] as const
