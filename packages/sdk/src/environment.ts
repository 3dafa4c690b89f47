/** What the client takes from the environment when its options do not say. Read here and nowhere else. */
export interface Environment {
  readonly url: string | undefined
  readonly apiKey: string | undefined
}

/** `BRAMBLE_URL` and `BRAMBLE_API_KEY`, where there is a process with an environment; nothing in a browser. */
export const readEnvironment = (): Environment => {
  const host = globalThis as { process?: { env?: Record<string, string | undefined> } }
  const env = host.process?.env
  return { url: env?.BRAMBLE_URL || undefined, apiKey: env?.BRAMBLE_API_KEY || undefined }
}
