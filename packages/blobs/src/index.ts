export * from './blob-store.ts'
export * from './content.ts'
export { memoryStore } from './memory/memory-store.ts'
