import { pageSchema, type SshKey, sshKeySchema } from '@bramble/protocol'
import type { CallOptions } from './call.ts'
import { escapeText } from './escape.ts'
import { type ListQuery, type PagedList, pagedList } from './page.ts'
import type { Transport } from './transport.ts'

export interface SshKeyInput {
  readonly name: string
  /** One line of an authorized_keys file, without options. */
  readonly publicKey: string
}

/** The keys that open the tenant's instances over SSH. */
export interface SshKeys {
  list(query?: ListQuery): PagedList<SshKey>
  add(input: SshKeyInput, options?: CallOptions): Promise<SshKey>
  remove(id: string, options?: CallOptions): Promise<void>
}

const PATH = '/api/v1/ssh-keys'
const keyPage = pageSchema(sshKeySchema).partial({ nextCursor: true })

export const sshKeys = (transport: Transport): SshKeys => ({
  list: (query = {}) => pagedList(transport, PATH, keyPage, {}, query),
  add: (input, options = {}) => transport.json({ method: 'POST', path: PATH, body: input, ...options }, sshKeySchema),
  remove: (id, options = {}) => transport.none({ method: 'DELETE', path: `${PATH}/${escapeText(id)}`, ...options }),
})
