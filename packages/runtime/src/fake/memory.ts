import { setImmediate } from 'node:timers/promises'
import { BrambleError, type MemoryRequirements } from '@bramble/protocol'
import type { SealedMemory } from '../seals/seals.ts'
import type { FakeFileSystem, Node } from './file-system.ts'
import { copyLog, type LogState } from './log.ts'
import type { Machine } from './process.ts'
import { copyProcesses, uncopied, World } from './world.ts'

/** A machine that does not run, with its processes in the middle of what they did; nothing changes it. */
export interface FakeMemory {
  readonly machine: Machine
  readonly log: LogState
}

export const FAKE_MEMORY_FILE = 'memory'
export const FAKE_OFFERS: MemoryRequirements = {
  architecture: process.arch,
  runtime: 'fake',
  format: 'fake 1',
  kernel: 'none',
  cpuFeatures: [],
}

/** For one that is between two turns: what ends by itself in so many of them does not hold up a copy. */
const TURNS = 256

/**
 * Stands the processes of `machine` still. Throws `checkpoint_refused` where one of them cannot be copied, and they go on. Those of
 * the process groups `but` have no part in it.
 */
export const freeze = async (machine: Machine, but: () => ReadonlySet<number>): Promise<{ thaw(): void }> => {
  const over = Promise.withResolvers<void>()
  const thaw = () => {
    machine.frozen = undefined
    over.resolve()
  }
  machine.frozen = over.promise
  // At the start of a turn nothing is under way: every process waits for something.
  for (let turn = 0; turn < TURNS; turn++) {
    await setImmediate()
    if (uncopied(machine, but()).length === 0) return { thaw }
  }
  const [first] = uncopied(machine, but())
  thaw()
  throw new BrambleError('checkpoint_refused', {
    detail: `the process ${first?.pid} (${first?.argv.join(' ').slice(0, 200)}) cannot be saved where it is`,
  })
}

const NOBODY: ReadonlySet<number> = new Set()

/**
 * Copies log and processes, but those of the groups `but`, into `makeMachine`'s machine, which has a copy of the files. Nothing
 * in it runs yet.
 */
export const copyMemory = (
  { machine, log }: FakeMemory,
  makeMachine: (files: FakeFileSystem) => Machine,
  but = NOBODY,
): FakeMemory => {
  const nodes = new Map<Node, Node>()
  const world = new World(makeMachine(machine.files.copy(nodes)), nodes)
  copyProcesses(machine, world, but)
  return { machine: world.machine, log: copyLog(log, world) }
}

/** A copy that stays as it is. */
export const sealMemory = (memory: FakeMemory, but: ReadonlySet<number>): FakeMemory =>
  copyMemory(memory, (files) => ({ ...memory.machine, files, processes: new Map(), frozen: undefined }), but)

/** Lets the processes of a copy run. */
export const startProcesses = ({ processes }: Machine): void => {
  for (const process of [...processes.values()]) {
    const { continuation } = process
    if (continuation) void process.run(continuation.run)
  }
}

export const describeMemory = ({ machine }: FakeMemory, id: string): SealedMemory => ({
  requires: FAKE_OFFERS,
  sizeBytes: id.length,
  files: [{ name: FAKE_MEMORY_FILE, sizeBytes: id.length }],
  processes: [...machine.processes.values()].map(({ pid, argv }) => ({ pid, command: argv.join(' ') })),
  ports: [],
})
