import type Docker from 'dockerode'

export interface EngineOptions {
  /** The engine's Unix socket. */
  readonly socketPath?: string
  /** `tcp://host:port`, `http://…` or `https://…` of a remote engine. */
  readonly host?: string
  /** PEM texts, for a remote engine behind TLS. */
  readonly tls?: { readonly ca: string; readonly cert: string; readonly key: string }
}

const DEFAULT_TCP_PORT = 2375

/**
 * A client of the engine at `socketPath` or `host`, or else where Docker's own tools look (`DOCKER_HOST`, then the
 * default sockets). The library is loaded here, so that a node without Docker does not carry it in memory.
 */
export const connectEngine = async ({ socketPath, host, tls }: EngineOptions): Promise<Docker> => {
  const { default: Client } = await import('dockerode')
  if (socketPath !== undefined) return new Client({ socketPath })
  if (host === undefined) return new Client()
  const url = new URL(host)
  if (url.protocol === 'unix:') return new Client({ socketPath: url.pathname })
  const protocol = tls || url.protocol === 'https:' ? 'https' : 'http'
  return new Client({ protocol, host: url.hostname, port: Number(url.port) || DEFAULT_TCP_PORT, ...tls })
}

/** The HTTP status of an error that the engine answered with. */
export const statusOf = (error: unknown): number | undefined => {
  const status = (error as { statusCode?: unknown }).statusCode
  return typeof status === 'number' ? status : undefined
}

/** The engine's own words. */
export const wordsOf = (error: unknown): string => {
  const { json, message } = error as { json?: { message?: unknown }; message?: unknown }
  return String(json?.message ?? message ?? error)
}
