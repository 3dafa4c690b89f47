/**
 * Ids as a person needs them. Ids of jobs and executions begin with a time that neighbours share, so their last eight
 * characters name them; a node's first ten do.
 */
export const shortId = (id: string): string =>
  /^(job|exe)_/.test(id) ? id.slice(-8) : /^0x[0-9a-f]{40}$/.test(id) ? id.slice(0, 10) : id
