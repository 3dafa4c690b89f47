import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    // Most tests wait for processes of theirs, and not for a processor.
    maxWorkers: Math.max(4, availableParallelism()),
    projects: [
      { test: { name: 'tidy', include: ['scripts/**/*.test.ts'] } },
      {
        test: {
          name: 'packages',
          include: ['packages/*/src/**/*.test.ts', 'packages/*/test/**/*.test.ts', 'test/**/*.test.ts'],
          testTimeout: 60_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
})
