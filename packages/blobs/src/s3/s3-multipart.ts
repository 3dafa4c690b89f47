import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  ListMultipartUploadsCommand,
  type ListMultipartUploadsCommandInput,
  type ListMultipartUploadsCommandOutput,
  UploadPartCommand,
  UploadPartCopyCommand,
} from '@aws-sdk/client-s3'
import { type CallOptions, S3Answer } from './s3-connection.ts'
import { unavailable } from './s3-error.ts'
import type { S3Objects } from './s3-objects.ts'

/** An object that is written in parts, of which nothing is seen before `complete`. */
export interface PartedUpload {
  /** Starts to send a part of at least 5 MiB, unless it is the last. Resolves when there is room for another. */
  add(bytes: Uint8Array): Promise<void>
  /** Resolves when the object is there. */
  complete(): Promise<void>
  /** Leaves nothing. Safe after `complete`, and where the server does not answer: what is left then goes with `sweep`. */
  abort(): Promise<void>
}

const MIB = 1024 * 1024
/**
 * How large a part is that follows so many others. The least that S3 takes, and more after some gigabytes: there may be 10,000
 * parts, which is 77 GiB then, more than `maxBlobBytes`.
 */
export const partBytesAfter = (parts: number): number => (parts < 1000 ? 5 : 8) * MIB
/** Parts on their way at once; each is in memory until it has arrived. */
const partsAtOnce = 3
/** All attempts of one part, on a slow line. */
const partMs = 600_000

/** Copies of more than 5 GiB are made of parts, too. */
const copyPartBytes = 1024 * 1024 * 1024

export const startUpload = async (objects: S3Objects, key: string, signal?: AbortSignal): Promise<PartedUpload> => {
  const { connection, fullKey } = objects
  const { client, location, observe } = connection
  const target = { Bucket: location.bucket, Key: fullKey(key) }
  const what = `writing ${key}`
  const call = async <T>(send: (abortSignal: AbortSignal) => Promise<T>, options: CallOptions = {}): Promise<T> => {
    const answer = await connection.call(what, send, { signal, ...options })
    if (answer instanceof S3Answer)
      throw unavailable(location.label, what, new Error(`the upload is ${answer.failure}`))
    return answer
  }
  const { UploadId } = await call((abortSignal) =>
    client.send(new CreateMultipartUploadCommand(target), { abortSignal }),
  )
  const parts: { PartNumber: number; ETag: string | undefined }[] = []
  const running = new Set<Promise<void>>()
  let failed: { readonly thrown: unknown } | undefined
  let done = false

  const send = async (PartNumber: number, Body: Uint8Array): Promise<void> => {
    const part = { ...target, UploadId, PartNumber, Body }
    const { ETag } = await call((abortSignal) => client.send(new UploadPartCommand(part), { abortSignal }), {
      withinMs: partMs,
    })
    observe({ kind: 'sent', bytes: Body.length })
    parts.push({ PartNumber, ETag })
  }
  const check = (): void => {
    if (failed) throw failed.thrown
  }
  let count = 0
  return {
    add: async (bytes) => {
      check()
      const sending = send(++count, bytes)
        .catch((thrown: unknown) => {
          failed ??= { thrown }
        })
        .finally(() => running.delete(sending))
      running.add(sending)
      if (running.size >= partsAtOnce) await Promise.race(running)
      check()
    },
    complete: async () => {
      await Promise.all(running)
      check()
      const Parts = parts.sort((left, right) => left.PartNumber - right.PartNumber)
      const whole = { ...target, UploadId, MultipartUpload: { Parts } }
      const answer = await connection.call(
        what,
        (abortSignal) => client.send(new CompleteMultipartUploadCommand(whole), { abortSignal }),
        { signal, withinMs: partMs },
      )
      // It may be complete already, by an attempt whose answer was lost: then the upload is gone, and the object there.
      if (answer instanceof S3Answer && !(await objects.head(key, { signal })))
        throw unavailable(location.label, what, new Error(`the upload is ${answer.failure}`))
      done = true
    },
    abort: async () => {
      if (done) return
      done = true
      await Promise.all(running)
      // The caller's signal may be why this is called.
      await connection
        .call(what, (abortSignal) =>
          client.send(new AbortMultipartUploadCommand({ ...target, UploadId }), { abortSignal }),
        )
        .catch(() => undefined)
    },
  }
}

/** Makes `to` an equal of `from`, within the server, whatever its size. */
export const copyObject = async (
  objects: S3Objects,
  from: string,
  to: string,
  { sizeBytes, signal }: { readonly sizeBytes: number; readonly signal?: AbortSignal | undefined },
): Promise<void> => {
  if (sizeBytes <= copyPartBytes) return objects.copy(from, to, { signal })
  const { connection, fullKey } = objects
  const { client, location } = connection
  const target = { Bucket: location.bucket, Key: fullKey(to) }
  const CopySource = [location.bucket, ...fullKey(from).split('/')].map(encodeURIComponent).join('/')
  const what = `copying to ${to}`
  const call = async <T>(send: (abortSignal: AbortSignal) => Promise<T>): Promise<T> => {
    const answer = await connection.call(what, send, { signal, withinMs: partMs })
    if (answer instanceof S3Answer)
      throw unavailable(location.label, what, new Error(`the source is ${answer.failure}`))
    return answer
  }
  const { UploadId } = await call((abortSignal) =>
    client.send(new CreateMultipartUploadCommand(target), { abortSignal }),
  )
  try {
    const Parts: { PartNumber: number; ETag: string | undefined }[] = []
    for (let start = 0; start < sizeBytes; start += copyPartBytes) {
      const PartNumber = Parts.length + 1
      const CopySourceRange = `bytes=${start}-${Math.min(sizeBytes, start + copyPartBytes) - 1}`
      const part = { ...target, UploadId, PartNumber, CopySource, CopySourceRange }
      const { CopyPartResult } = await call((abortSignal) =>
        client.send(new UploadPartCopyCommand(part), { abortSignal }),
      )
      Parts.push({ PartNumber, ETag: CopyPartResult?.ETag })
    }
    const whole = { ...target, UploadId, MultipartUpload: { Parts } }
    await call((abortSignal) => client.send(new CompleteMultipartUploadCommand(whole), { abortSignal }))
  } catch (thrown) {
    await connection
      .call(what, (abortSignal) =>
        client.send(new AbortMultipartUploadCommand({ ...target, UploadId }), { abortSignal }),
      )
      .catch(() => undefined)
    throw thrown
  }
}

/** Aborts uploads below `prefix` that began before `beforeMs`: killed processes left them, and they are paid for. */
export const abortUploads = async (
  objects: S3Objects,
  prefix: string,
  { beforeMs, signal }: { readonly beforeMs: number; readonly signal?: AbortSignal | undefined },
): Promise<number> => {
  const { connection, fullKey } = objects
  const { client, location } = connection
  const what = `listing uploads of ${prefix}`
  let aborted = 0
  let marker: Marker | undefined = {}
  while (marker !== undefined) {
    const input: ListMultipartUploadsCommandInput = { Bucket: location.bucket, Prefix: fullKey(prefix), ...marker }
    const page: ListMultipartUploadsCommandOutput | S3Answer = await connection.call(
      what,
      (abortSignal) => client.send(new ListMultipartUploadsCommand(input), { abortSignal }),
      { signal },
    )
    if (page instanceof S3Answer) return aborted
    for (const { Key, UploadId, Initiated } of page.Uploads ?? []) {
      if ((Initiated?.getTime() ?? 0) >= beforeMs) continue
      const left = { Bucket: location.bucket, Key, UploadId }
      await connection.call(
        what,
        (abortSignal) => client.send(new AbortMultipartUploadCommand(left), { abortSignal }),
        { signal },
      )
      aborted++
    }
    const { IsTruncated, NextKeyMarker: KeyMarker, NextUploadIdMarker: UploadIdMarker } = page
    marker = IsTruncated ? { KeyMarker, UploadIdMarker } : undefined
  }
  return aborted
}

interface Marker {
  readonly KeyMarker?: string | undefined
  readonly UploadIdMarker?: string | undefined
}
