import type { QueryConfig } from 'pg'
import { int8Array, textArray } from './postgres-arrays.ts'
import type { BatchRows } from './rows.ts'

/** Rows of the log that one append removes behind the checkpoint: it is trimmed in steps, none of which is felt. */
export const TRIM_ROWS = 64

/**
 * One append is one statement, and so one round trip and one transaction. `fence` takes the writer's row: only for the epoch
 * that holds it, and only as the append that follows the last one. So an append whose connection broke, and which the server may
 * still carry out, and the one that was sent again in its place can never both be written; nor can one of an old epoch, since who
 * takes the lease changes the same row, and waits for it.
 *
 * Parts of a statement see the tables as they were before it: `counted` finds the old status of each job.
 */
const APPEND = `
with fence as (
  update writer set flush = $2 where id = 1 and epoch = $1::bigint and flush = $2::bigint - 1 returning epoch
), logged as (
  insert into log select $3::bigint, $4::bigint, epoch, $5::bigint, $6::text from fence where $6::text is not null
), new_jobs as (
  select new.* from fence, unnest($7::text[], $8::text[], $9::text[], $10::bigint[], $11::text[], $12::text[], $13::text[],
    $14::bigint[], $15::text[]) as new (id, tenant, status, open, idempotency_key, idempotency_digest, provisional_node,
    provisional_until, state)
), counted as (
  insert into job_counts select status, sum(step) from (
    select status, 1 as step from new_jobs
    union all select jobs.status, -1 from new_jobs join jobs on jobs.id = new_jobs.id
  ) as steps group by status having sum(step) <> 0
  on conflict (status) do update set jobs = job_counts.jobs + excluded.jobs
), kept_jobs as (
  insert into jobs select id, tenant, status, open::integer, idempotency_key, idempotency_digest, provisional_node,
    provisional_until, state from new_jobs
  on conflict (id) do update set status = excluded.status, open = excluded.open, state = excluded.state,
    idempotency_key = coalesce(jobs.idempotency_key, excluded.idempotency_key),
    idempotency_digest = coalesce(jobs.idempotency_digest, excluded.idempotency_digest),
    provisional_node = excluded.provisional_node, provisional_until = excluded.provisional_until
), labelled as (
  insert into job_labels select label.* from fence, unnest($16::text[], $17::text[], $18::text[], $19::text[]) as label
  on conflict do nothing
), documented as (
  insert into documents select document.* from fence, unnest($20::text[], $21::text[], $22::text[]) as document
  on conflict (kind, key) do update set body = excluded.body
), removed as (
  delete from documents using fence, unnest($23::text[], $24::text[]) as gone (kind, key)
  where documents.kind = gone.kind and documents.key = gone.key
), remarked as (
  insert into reputation select remark.* from fence, unnest($25::text[], $26::bigint[], $27::text[]) as remark
), moved as (
  insert into ledger select entry.* from fence, unnest($28::bigint[], $29::text[], $30::text[], $31::text[], $32::bigint[],
    $33::text[], $34::text[], $35::bigint[]) as entry
), summed as (
  insert into account_totals select total.* from fence, unnest($36::text[], $37::bigint[]) as total
  on conflict (kind) do update set amount = account_totals.amount + excluded.amount
), checked as (
  update meta set value = $38::bigint from fence where name = 'checkpoint' and $38::bigint is not null
), trimmed as (
  delete from log using fence where $39::bigint > 0 and seq in (
    select seq from log where last_seq <= coalesce($38::bigint, (select value from meta where name = 'checkpoint'))
    order by seq limit $39::bigint
  ) returning seq
)
select (select count(*) from fence)::integer as fenced, (select count(*) from trimmed)::integer as trimmed`

/** The statement is parsed and planned once for each connection. */
export const appendQuery = (
  epoch: number,
  flush: number,
  rows: BatchRows,
  options: { readonly trimRows: number },
): QueryConfig => {
  const { log, jobs, labels, documents, removed, reputation, ledger, totals } = rows
  return {
    name: 'append',
    text: APPEND,
    values: [
      epoch,
      flush,
      ...[log?.seq ?? null, log?.last_seq ?? null, log?.at ?? null, log?.records ?? null],
      textArray(jobs.map((job) => job.id)),
      textArray(jobs.map((job) => job.tenant)),
      textArray(jobs.map((job) => job.status)),
      int8Array(jobs.map((job) => job.open)),
      textArray(jobs.map((job) => job.idempotency_key)),
      textArray(jobs.map((job) => job.idempotency_digest)),
      textArray(jobs.map((job) => job.provisional_node)),
      int8Array(jobs.map((job) => job.provisional_until)),
      textArray(jobs.map((job) => job.state)),
      textArray(labels.map((label) => label.job)),
      textArray(labels.map((label) => label.tenant)),
      textArray(labels.map((label) => label.name)),
      textArray(labels.map((label) => label.value)),
      textArray(documents.map((document) => document.kind)),
      textArray(documents.map((document) => document.key)),
      textArray(documents.map((document) => document.body)),
      textArray(removed.map((document) => document.kind)),
      textArray(removed.map((document) => document.key)),
      textArray(reputation.map((remark) => remark.node)),
      int8Array(reputation.map((remark) => remark.seq)),
      textArray(reputation.map((remark) => remark.entry)),
      int8Array(ledger.map((entry) => entry.seq)),
      textArray(ledger.map((entry) => entry.kind)),
      textArray(ledger.map((entry) => entry.from_account)),
      textArray(ledger.map((entry) => entry.to_account)),
      int8Array(ledger.map((entry) => entry.amount)),
      textArray(ledger.map((entry) => entry.job)),
      textArray(ledger.map((entry) => entry.execution)),
      int8Array(ledger.map((entry) => entry.at)),
      textArray(totals.map((total) => total.kind)),
      int8Array(totals.map((total) => total.amount)),
      rows.checkpoint ?? null,
      options.trimRows,
    ],
  }
}
