import { join } from 'node:path'
import { manifestOfDir } from './blobs-of.ts'
import { copyManifest } from './copy-manifest.ts'
import { sha256Hex } from './host-file.ts'
import { imageInvalid, pullFailed } from './image-errors.ts'
import type { ImportContext, Located } from './located.ts'
import { choose, isIndex, MAX_MANIFEST_BYTES, type Manifest, parseIndex, parseManifest } from './oci-manifest.ts'
import { checkReference, nameOfReference, splitReference } from './reference.ts'
import { lastWords } from './run-tool.ts'
import { runSkopeo, skopeoCopy } from './skopeo.ts'

/**
 * Asks the registry for the manifest, and for the one of this host where it is an index, before anything is pulled: an
 * image that is here already, is not for this host, or says it is too large, costs no more than that. The pull is by
 * digest, so a tag that moves meanwhile changes nothing.
 */
export const locateRegistry = async (
  source: { reference: string; insecure?: boolean },
  context: ImportContext,
): Promise<Located> => {
  const { insecure } = source
  const reference = checkReference(source.reference)
  const inspect = async (what: string): Promise<Buffer> => {
    const tls = insecure ? ['--tls-verify=false'] : []
    const { exitCode, stdout, message } = await runSkopeo(['inspect', '--raw', ...tls, `docker://${what}`], context)
    if (exitCode !== 0) throw pullFailed(`${reference}: ${lastWords(message)}${withoutTls(message)}`)
    if (stdout.length > MAX_MANIFEST_BYTES) throw imageInvalid('its manifest is too large')
    return stdout
  }

  context.progress({ phase: 'copy', message: `asking for ${reference}` })
  const { repository } = splitReference(reference)
  let bytes = await inspect(reference)
  if (isIndex(bytes)) bytes = await inspect(`${repository}@${choose(parseIndex(bytes).manifests).digest}`)
  const digest = `sha256:${sha256Hex(bytes)}`
  const totalBytes = sizeOf(parseManifest(bytes))
  if (totalBytes > context.bytes.maxBytes) {
    throw imageInvalid(`it has ${totalBytes} bytes; the limit is ${context.bytes.maxBytes} (maxImageBytes)`)
  }
  return {
    digest,
    source: `registry ${reference}`,
    defaultName: nameOfReference(reference),
    fetch: async (job) => {
      const pulled = join(job.work, 'pulled')
      const args = insecure ? ['--src-tls-verify=false'] : []
      const fail = (detail: string) => pullFailed(`${reference}: ${detail}`)
      await skopeoCopy(`docker://${repository}@${digest}`, pulled, job, fail, { args, totalBytes })
      const image = await manifestOfDir(pulled)
      if (image.digest !== digest) throw pullFailed(`${reference}: the registry sent the manifest ${image.digest}`)
      return copyManifest(image, job)
    },
  }
}

/** The words of Go's net/http for a server that does not speak TLS. */
const withoutTls = (message: string): string =>
  message.includes('server gave HTTP response to HTTPS client') ? ' (it has no TLS: `insecure` takes it)' : ''

const sizeOf = (manifest: Manifest): number =>
  manifest.layers.reduce((sum, { size }) => sum + size, manifest.config.size)
