import { pullFailed } from './image-errors.ts'

const REFERENCE = /^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}$/

/** A reference that is one by its letters, so that it can stand in a tool's argument and in a URL's path. */
export const checkReference = (reference: string): string => {
  if (REFERENCE.test(reference) && !reference.includes('..')) return reference
  throw pullFailed(`${JSON.stringify(reference.slice(0, 200))} is not an image reference (host/name:tag)`)
}

/** `host:port/path:tag@digest` into what names the repository, and the tag. */
export const splitReference = (reference: string): { repository: string; tag: string | undefined } => {
  const [named = ''] = reference.split('@')
  const colon = named.lastIndexOf(':')
  if (colon === -1 || named.indexOf('/', colon) !== -1) return { repository: named, tag: undefined }
  return { repository: named.slice(0, colon), tag: named.slice(colon + 1) }
}

/** The reference without its registry's host and digest, as people call the image: `python:3.12`. */
export const nameOfReference = (reference: string): string => {
  const { repository, tag } = splitReference(reference)
  const parts = repository.split('/')
  const host = parts[0] ?? ''
  const isHost = parts.length > 1 && (host.includes('.') || host.includes(':') || host === 'localhost')
  const path = parts
    .slice(isHost ? 1 : 0)
    .join('/')
    .replace(/^library\//, '')
  return tag === undefined ? path : `${path}:${tag}`
}
