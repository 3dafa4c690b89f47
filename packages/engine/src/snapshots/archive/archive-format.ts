/** The members of an exported file, in their order: `docs/snapshot-format.md`. */
export const HEADER_NAME = 'bramble-snapshot.json'
export const MANIFEST_NAME = 'manifest.json'
export const blobName = (hash: string): string => `blobs/${hash}`
export const END_NAME = 'end.json'
