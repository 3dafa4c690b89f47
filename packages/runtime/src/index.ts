export * from './agent/agent.ts'
export * from './fake/fake.ts'
export * from './images/image-store.ts'
export * from './runtime.ts'
