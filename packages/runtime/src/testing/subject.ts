import { newId } from '@bramble/protocol'
import { afterAll, beforeAll, type TestContext } from 'vitest'
import type { LocalImage } from '../images/image-store.ts'
import type { Runtime, Sandbox, SandboxConfig, SandboxResources } from '../runtime.ts'

/** A runtime under test, on a data directory of its own. */
export interface Subject {
  readonly runtime: Runtime
  /** The image of `makeTestImage`. */
  readonly image: LocalImage
  /** Another runtime, on a data directory that nothing else uses. */
  openFresh(): Promise<FreshRuntime>
  /** Kills the sandbox's agent from outside, as a kernel may. */
  killAgent(sandbox: Sandbox): Promise<void>
  /** True: sandboxes see the host's files, users and processes (isolation `none`). */
  readonly sharesHost?: boolean
  /**
   * True: seals of the driver's sandboxes know times to the second, and no extended attributes of the kind `user.`; the names of
   * one file are files of their own once one is written to in what continues from a seal.
   */
  readonly coarseSeals?: boolean
  /** Starts a command that the driver cannot save the memory of, and resolves when it runs. */
  refusesMemoryOf?(sandbox: Sandbox): Promise<void>
  close(): Promise<void>
}

export interface FreshRuntime {
  readonly runtime: Runtime
  /** Leaves the runtime as the crash of its whole host would, and opens the next one on the same data directory. */
  restart(): Promise<Runtime>
  /** Opens the next one on the same data directory after the runtime was closed. Where that is missing: as `restart`. */
  reopen?(): Promise<Runtime>
}

export interface SubjectOptions {
  /** Why this host cannot run the driver goes into `skip`. */
  open(): Promise<Subject | { skip: string }>
}

/** Drivers that must not be skipped: `REQUIRE_DRIVERS=oci,docker`. */
const required = (name: string): boolean =>
  (process.env.REQUIRE_DRIVERS ?? '').split(',').includes(name.split(' ')[0] ?? '')

/** The subject, or the test is skipped with the reason. */
export type Fixture = (context: TestContext) => Subject

/** Opens the subject once for the tests of the surrounding `describe`, and closes it after them. */
export const useSubject = (name: string, options: SubjectOptions): Fixture => {
  let opened: Subject | { skip: string } | undefined
  beforeAll(async () => {
    opened = await options.open()
    if ('skip' in opened) {
      if (required(name)) throw new Error(`REQUIRE_DRIVERS names ${name}, which this host cannot run: ${opened.skip}`)
      process.stderr.write(`skipped: runtime ${name}: ${opened.skip}\n`)
      return
    }
    await opened.runtime.prepare(opened.image)
  })
  afterAll(async () => {
    if (!opened || 'skip' in opened) return
    await opened.runtime.close()
    await opened.close()
  })
  return (context) => {
    if (!opened) throw new Error(`${name} was not opened`)
    if ('skip' in opened) return skip(context, opened.skip)
    return opened
  }
}

/** Skips the rest of the test, and says why where people see it. */
export const skip = (context: TestContext, reason: string): never => {
  process.stderr.write(`skipped: ${context.task.suite?.name ?? ''} > ${context.task.name}: ${reason}\n`)
  return context.skip(reason)
}

export const RESOURCES: SandboxResources = { cpus: 1, memoryMb: 128, diskMb: 64, pids: 64 }

export const configOf = (
  { image }: Pick<Subject, 'image'>,
  changes: { resources?: Partial<SandboxResources>; hostname?: string; layer?: string } = {},
): SandboxConfig => ({
  id: newId('sandbox'),
  image,
  resources: { ...RESOURCES, ...changes.resources },
  ...(changes.hostname !== undefined && { hostname: changes.hostname }),
  ...(changes.layer !== undefined && { keep: { layer: changes.layer } }),
})
