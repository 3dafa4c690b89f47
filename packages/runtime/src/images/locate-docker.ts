import { createWriteStream } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { BrambleError } from '@bramble/protocol'
import { byteBudget, spend } from './byte-budget.ts'
import { copyManifest } from './copy-manifest.ts'
import { pullFailed } from './image-errors.ts'
import { manifestOfArchive } from './locate-oci.ts'
import type { ImportContext, Located } from './located.ts'
import { checkReference, nameOfReference } from './reference.ts'

const MAX_ERROR_CHARS = 1024
const DEFAULT_HOST = 'unix:///var/run/docker.sock'

/**
 * Saves the image by the engine's API (`GET /images/{name}/get`), which every version of the engine has, and reads that
 * archive. The digest is that of the manifest in it, or, from engines that keep none, of one made from the image's parts.
 */
export const locateDockerDaemon = async (
  source: { reference: string; host?: string },
  context: ImportContext,
): Promise<Located> => {
  const reference = checkReference(source.reference)
  const archive = join(context.work, 'docker-save.tar')
  context.progress({ phase: 'copy', message: `saving ${reference}` })
  const budget = byteBudget(context.bytes.maxBytes)
  try {
    const saved = await save(reference, source.host ?? DEFAULT_HOST, context.signal)
    async function* bounded() {
      for await (const chunk of saved as AsyncIterable<Buffer>) {
        spend(budget, chunk.length)
        yield chunk
      }
    }
    await pipeline(bounded, createWriteStream(archive, { flags: 'wx', mode: 0o600 }), { signal: context.signal })
  } catch (cause) {
    if (cause instanceof BrambleError || context.signal.aborted) throw cause
    throw pullFailed(`${reference}: ${cause instanceof Error ? cause.message : String(cause)}`, cause)
  }
  const image = await manifestOfArchive(archive, context)
  return {
    digest: image.digest,
    source: `docker ${reference}`,
    defaultName: reference.startsWith('sha256:') ? undefined : nameOfReference(reference),
    fetch: (job) => copyManifest(image, job),
  }
}

/** The engine's answer, once it is one: without a version in the path, any engine takes the request as its own version's. */
const save = (reference: string, host: string, signal: AbortSignal): Promise<IncomingMessage> =>
  new Promise((resolve, reject) => {
    const path = `/images/${encodeURIComponent(reference)}/get`
    const sent = request({ ...addressOf(host), path, signal }, async (answer) => {
      if (answer.statusCode === 200) return resolve(answer)
      try {
        let text = ''
        for await (const chunk of answer) if (text.length < MAX_ERROR_CHARS) text += chunk
        reject(pullFailed(`${reference}: the engine says ${answer.statusCode} ${messageOf(text)}`))
      } catch (cause) {
        reject(cause)
      }
    })
    sent.once('error', reject)
    sent.end()
  })

const addressOf = (host: string): { socketPath: string } | { host: string; port: string } => {
  if (host.startsWith('unix://')) return { socketPath: host.slice('unix://'.length) }
  const url = URL.canParse(host) ? new URL(host) : undefined
  if (url === undefined || !['tcp:', 'http:'].includes(url.protocol)) {
    throw pullFailed(`${host} is not an engine's address (unix:///path or tcp://host:port)`)
  }
  return { host: url.hostname, port: url.port || '2375' }
}

const messageOf = (text: string): string => {
  try {
    const { message } = JSON.parse(text) as { message?: unknown }
    return typeof message === 'string' ? message.slice(0, MAX_ERROR_CHARS) : ''
  } catch {
    return ''
  }
}
