export * from './engine.ts'
export * from './limits.ts'
export * from './options.ts'
