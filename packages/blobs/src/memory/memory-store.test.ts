import { memoryStore } from '../index.ts'
import { testBlobStore } from '../testing.ts'

testBlobStore('memory', {
  largeBytes: 0,
  open: async () => ({ store: memoryStore(), close: async () => undefined }),
})
