import {
  type ApiKey,
  keySchema,
  type NewApiKey,
  newId,
  newKeySchema,
  pageSchema,
  type Quota,
  type Scope,
} from '@bramble/protocol'
import type { CallOptions } from './call.ts'
import { type ListQuery, type PagedList, pagedList } from './page.ts'
import type { Transport } from './transport.ts'

export interface KeyInput {
  readonly name: string
  /** Default `default`. */
  readonly tenant?: string | undefined
  /** Default `execute` and `read`. */
  readonly scopes?: readonly Scope[] | undefined
  readonly quota?: Quota | undefined
}

/** API keys; all of it needs the scope `admin`. */
export interface Keys {
  list(query?: ListQuery): PagedList<ApiKey>
  /** The answer is the only place where the key itself ever stands: the node keeps its hash. */
  add(input: KeyInput, options?: CallOptions): Promise<NewApiKey>
  remove(id: string, options?: CallOptions): Promise<void>
}

const PATH = '/api/v1/keys'
const keyPage = pageSchema(keySchema).partial({ nextCursor: true })

export const keys = (transport: Transport): Keys => ({
  list: (query = {}) => pagedList(transport, PATH, keyPage, {}, query),
  add: (input, options = {}) => {
    const key = newId('request')
    const request = { method: 'POST', path: PATH, body: input, repeatable: true, idempotencyKey: () => key } as const
    return transport.json({ ...request, ...options }, newKeySchema)
  },
  remove: (id, options = {}) =>
    transport.none({ method: 'DELETE', path: `${PATH}/${encodeURIComponent(id)}`, ...options }),
})
