import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { testStore } from '../testing/store-contract.ts'
import { sqliteStore } from './sqlite-store.ts'

testStore('sqlite', {
  open: async () => {
    const directory = mkdtempSync(join(tmpdir(), 'bramble-store-'))
    return {
      open: () => sqliteStore({ path: join(directory, 'network.db') }),
      died: (store) => store.close(),
      close: async () => rmSync(directory, { recursive: true }),
    }
  },
})
