import type { Exposure } from '@bramble/engine'
import { isLoopback } from '@bramble/http'
import { EXPIRES, SIGNATURE } from './access.ts'
import { hostLabel } from './address.ts'
import type { Signed } from './signatures.ts'

export interface UrlOptions {
  /** Under which host names lead to ports. */
  readonly domain: string
  /** As the client reached the node: it reaches the port so too. */
  readonly host: string | undefined
  readonly signed?: Signed | undefined
}

/**
 * Where an exposed port is reached. `url` has the instance's id, which never means another one later; `byHost` has its name,
 * and is there where the client can look it up: with the domain that the node was given, or on this machine.
 */
export const portUrls = (exposure: Exposure, options: UrlOptions): { url: string; byHost?: string } => {
  const { domain, host = 'localhost', signed } = options
  const { instanceId, name, port } = exposure
  const query = signed ? `?${SIGNATURE}=${signed.signature}&${EXPIRES}=${signed.expires}` : ''
  const [, hostName = host, hostPort = ''] = /^(.*?)(:\d+)?$/.exec(host) ?? []
  const isKnown = domain !== LOCAL || isLoopback(hostName.replace(/^\[(.*)\]$/, '$1'))
  return {
    url: `http://${host}/p/${instanceId}/${port}/${query}`,
    ...(isKnown && { byHost: `http://${hostLabel(port, name ?? instanceId)}.${domain}${hostPort}/${query}` }),
  }
}

/** Browsers look up every name below it as this machine (RFC 6761, 6.3). */
const LOCAL = 'localhost'
