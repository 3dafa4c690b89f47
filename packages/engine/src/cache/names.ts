import { sha256 } from '../outcome.ts'

/** Where the cache keeps what in the names of a blob store. */
export const RESULTS = 'results/'
export const INVALIDATIONS = 'invalidations/'

const PLAIN = /^[a-z0-9][a-z0-9-]{0,62}$/

/** A tenant as a segment of a name: itself where that can be one, else what no tenant is called. */
export const tenantSegment = (tenant: string): string => (PLAIN.test(tenant) ? tenant : `_${sha256(tenant)}`)

export const resultsOf = (tenant: string): string => `${RESULTS}${tenantSegment(tenant)}/`
export const resultName = (tenant: string, inputHash: string): string => `${resultsOf(tenant)}${inputHash}`
export const invalidationsOf = (tenant: string): string => `${INVALIDATIONS}${tenantSegment(tenant)}/`

/** Undefined where the bytes are no JSON. */
export const jsonIn = (value: Uint8Array): unknown => {
  try {
    return JSON.parse(Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString())
  } catch {
    return undefined
  }
}
