export * from './blob-store.ts'
export * from './content.ts'
export { type FsStoreOptions, fsStore } from './fs/fs-store.ts'
export { memoryStore } from './memory/memory-store.ts'
