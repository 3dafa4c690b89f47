import { createHash } from 'node:crypto'

/** Longer ones do not fit in an entry of a PostgreSQL B-tree (2,704 bytes), whatever their characters. */
const MAX_KEY_CHARS = 800

// biome-ignore lint/suspicious/noControlCharactersInRegex: PostgreSQL stores no NUL in text, which is why it is looked for.
const UNSAFE = /[\\\u0000]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g

/**
 * Any string as one that every database keeps and finds again, different for different ones: NUL and lone surrogates, which
 * PostgreSQL refuses or UTF-8 has no form for, are escaped; what is too long for an index is there as its hash.
 */
export const keyText = (text: string): string => {
  if (text.length > MAX_KEY_CHARS)
    return `\\h${createHash('sha256').update(Buffer.from(text, 'utf16le')).digest('hex')}`
  return text.replace(UNSAFE, (unit) =>
    unit === '\\' ? '\\\\' : `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

/** The string again; of one that was too long, what stands for it. */
export const textOfKey = (key: string): string =>
  key.includes('\\')
    ? key.replace(/\\(?:\\|u([0-9a-f]{4}))/g, (_escape, hex?: string) =>
        hex === undefined ? '\\' : String.fromCharCode(Number.parseInt(hex, 16)),
      )
    : key
