/** What a request for a port of an instance names. */
export interface PortAddress {
  /** Id or name of the instance. */
  readonly ref: string
  readonly port: number
  /** What the app does not see of the path: `/p/<instance>/<port>`, or nothing where the host name says it. */
  readonly prefix: string
  /** The request target as the app sees it, query included; `''` where the path ends with the prefix. */
  readonly target: string
}

const BY_PATH = /^\/p\/([a-z][a-z0-9_-]{0,39})\/([1-9]\d{0,4})(?=[/?]|$)/
/** One label: the name of an instance, or its id with `-` for `_`, which no host name may have. */
const BY_HOST = /^([1-9]\d{0,4})-([a-z][a-z0-9-]{0,39})\.([a-z0-9.-]+?)(?::\d{1,5})?$/i
const ID_LABEL = /^ins-(?=[0-9a-z]{26}$)/

/** The port that a request is for, where it is for one; by the host name, and else by the path. */
export const portAddress = (host: string | undefined, url: string, domain: string): PortAddress | undefined => {
  const code = host === undefined ? 0 : host.charCodeAt(0)
  // Port numbers begin with 1 to 9: the host names of most other requests are told apart by their first letter.
  if (host !== undefined && code >= 49 && code <= 57) {
    const match = BY_HOST.exec(host)
    if (match?.[3]?.toLowerCase() === domain) {
      const ref = (match[2] ?? '').toLowerCase().replace(ID_LABEL, 'ins_')
      return { ref, port: Number(match[1]), prefix: '', target: url }
    }
  }
  if (!url.startsWith('/p/')) return undefined
  const match = BY_PATH.exec(url)
  if (!match) return undefined
  const [prefix, ref = '', port] = match
  return { ref, port: Number(port), prefix, target: url.slice(prefix.length) }
}

/** The label of an instance in host names. */
export const hostLabel = (port: number, ref: string): string => `${port}-${ref.replace('_', '-')}`
