import { execFile } from 'node:child_process'
import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll } from 'vitest'
import type { Agent } from '../../agent/agent.ts'
import { type SpawnedAgent, spawnAgent } from '../../agent/testing/spawn-agent.ts'
import { sandboxFiles } from '../create-sandbox-files.ts'
import type { SandboxFiles } from '../sandbox-files.ts'

export const isRoot = process.getuid?.() === 0

export interface FileArena {
  readonly spawned: SpawnedAgent
  readonly agent: Agent
  readonly files: SandboxFiles
  /** A path in the folder of the test. */
  at(name: string): string
  /** What a shell prints in that folder. */
  sh(script: string): Promise<string>
  /** Names of uploads that were left behind in a directory. */
  leftovers(directory?: string): Promise<string[]>
}

/** An agent on this host, its files, and a folder of its own. */
export const useFileArena = (): (() => FileArena) => {
  let arena: FileArena | undefined
  beforeAll(async () => {
    const spawned = await spawnAgent({ keep: true })
    const agent = await spawned.connect()
    const at = (name: string) => join(spawned.folder, name)
    arena = {
      spawned,
      agent,
      files: sandboxFiles(agent, { agentPath: spawned.binary }),
      at,
      sh: async (script) => {
        const options = { cwd: spawned.folder, maxBuffer: 1 << 26 }
        return (await promisify(execFile)('sh', ['-c', script], options)).stdout
      },
      leftovers: async (directory = spawned.folder) =>
        (await readdir(directory)).filter((name) => name.startsWith('.bramble')),
    }
  })
  afterAll(async () => {
    // rm(1) of some hosts, and Node's, fail on the deepest trees.
    await arena?.files.remove(arena.at('deep'), { recursive: true }).catch(() => {})
    await arena?.agent.close()
    await arena?.spawned[Symbol.asyncDispose]()
  })
  return () => {
    if (arena === undefined) throw new Error('the agent is not there')
    return arena
  }
}

export const bytesOf = async (body: AsyncIterable<Uint8Array>): Promise<Buffer> => {
  const pieces: Uint8Array[] = []
  for await (const piece of body) pieces.push(piece)
  return Buffer.concat(pieces)
}

export async function* pieces(...parts: (string | Uint8Array | Error)[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) {
    if (part instanceof Error) throw part
    yield Buffer.from(part)
  }
}

/** Directories in one another, each with a file beside: deeper than any path reaches. */
export const makeDeep = async (directory: string, levels: number): Promise<void> => {
  await mkdir(directory)
  const script = `const fs = require('fs')
    for (let level = 0; level < ${levels}; level++) { fs.mkdirSync('d'); fs.writeFileSync('f', ''); process.chdir('d') }`
  await promisify(execFile)(process.execPath, ['-e', script], { cwd: directory })
}
