import type { IncomingHttpHeaders } from 'node:http'
import { Readable } from 'node:stream'
import { BrambleError } from '@bramble/protocol'
import { Busboy, type BusboyHeaders } from '@fastify/busboy'

/** One part of a form. Its content must be read to the end before the next part comes. */
export interface FormFile {
  /** As the part calls it: with folders where it says so. */
  readonly name: string
  readonly content: AsyncIterable<Uint8Array>
}

/**
 * The parts of a form (RFC 7578), in order, each a file: by its file name, or by the name of its field where it has none.
 * `take` is called for one after the other.
 *
 * Errors: `invalid_request` for what is no form, `body_too_large` for more than `maxParts`.
 */
export const receiveForm = async (
  headers: IncomingHttpHeaders,
  body: AsyncIterable<Uint8Array>,
  maxParts: number,
  take: (file: FormFile) => Promise<void>,
): Promise<void> => {
  const form = makeForm(headers, maxParts)
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  promise.catch(() => {})
  let line: Promise<void> = Promise.resolve()
  const open = new Set<Readable>()
  form.on('file', (field: string, content: Readable, fileName: string | undefined) => {
    open.add(content)
    content.on('error', () => {}).on('close', () => open.delete(content))
    line = line.then(() => take({ name: fileName ?? field, content }))
    line.catch(reject)
  })
  form.on('partsLimit', () => reject(new BrambleError('body_too_large', { detail: `more than ${maxParts} files` })))
  form.on('error', (error: unknown) => reject(notAForm(error)))
  form.on('finish', () => line.then(resolve, reject))
  const source = Readable.from(body, { objectMode: false })
  source.on('error', reject).pipe(form)
  try {
    await promise
  } catch (error) {
    // Whoever reads one of them is told, and nothing of it is kept.
    for (const content of open) content.destroy(error as Error)
    await line.catch(() => {})
    throw error
  } finally {
    source.destroy()
    form.destroy()
  }
}

const makeForm = (headers: IncomingHttpHeaders, maxParts: number): InstanceType<typeof Busboy> => {
  try {
    return new Busboy({
      headers: headers as BusboyHeaders,
      preservePath: true,
      isPartAFile: () => true,
      limits: { parts: maxParts, files: maxParts, headerPairs: 64, headerSize: 16 * 1024 },
    })
  } catch (error) {
    throw notAForm(error)
  }
}

const notAForm = (error: unknown): BrambleError =>
  new BrambleError('invalid_request', {
    detail: `the body is not a form: ${error instanceof Error ? error.message : String(error)}`,
    cause: error,
  })
