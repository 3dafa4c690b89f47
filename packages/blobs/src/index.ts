export * from './blob-store.ts'
export * from './content.ts'
