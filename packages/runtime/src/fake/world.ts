import { copyNode, type FileNode, type Node } from './file-system.ts'
import type { FakeProcess, Machine, Program } from './process.ts'

/**
 * A copy of a fake sandbox in the making. It is made between two turns of the event loop, when every process waits for
 * something: what stands for what was copied is looked up here, so that two who share a pipe share its copy.
 */
export class World {
  readonly machine: Machine
  readonly #nodes: Map<Node, Node>
  readonly #copies = new Map<object, object>()

  /** `nodes`: which became which when the files of `machine` were copied. */
  constructor(machine: Machine, nodes: Map<Node, Node>) {
    this.machine = machine
    this.#nodes = nodes
  }

  once<T extends object>(original: T, make: () => T): T {
    const there = this.#copies.get(original)
    // What is kept under an object was made from it.
    if (there) return there as T
    const copy = make()
    this.#copies.set(original, copy)
    return copy
  }

  /** One that was deleted while it is open, too. */
  file(file: FileNode): FileNode {
    const copy = copyNode(file, this.#nodes)
    if (copy.kind !== 'file') throw new Error('a file became something else')
    return copy
  }

  process(process: FakeProcess): FakeProcess {
    return this.once(process, () => process.copy(this))
  }
}

/** How a process goes on in a copy of its sandbox. */
export interface Continuation {
  /** Its state, for that copy. */
  copy(world: World): Continuation
  readonly run: Program
}

/** Of a program that has done nothing yet: it begins again. */
export const again = (program: Program): Continuation => {
  const continuation: Continuation = { copy: () => continuation, run: program }
  return continuation
}

/** The processes that hold up a copy of the machine. Those of the process groups `but` have no part in it. */
export const uncopied = (machine: Machine, but: ReadonlySet<number>): FakeProcess[] =>
  [...machine.processes.values()].filter(({ continuation, group }) => continuation === undefined && !but.has(group))

/** Copies every process of `from` but those; none of the copies runs. */
export const copyProcesses = (from: Machine, world: World, but: ReadonlySet<number>): void => {
  for (const process of from.processes.values())
    if (!but.has(process.group)) world.process(process).continueAs(process, world)
  world.machine.nextPid = from.nextPid
}
