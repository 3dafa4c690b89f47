import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { checkObjectStore } from '@bramble/blobs'
import { toBrambleError } from '@bramble/protocol'
import {
  agentBinaryPath,
  connectAgent,
  docker,
  findCriu,
  oci,
  openImageStore,
  type Probe,
  type Runtime,
} from '@bramble/runtime'
import { imagesDirectory } from '../node/images-directory.ts'
import type { Part, PartReport } from './part.ts'

/** The group whose parts run sandboxes. */
export const RUNTIMES = 'runtimes'

const agent: Part = {
  group: 'bramble',
  name: 'agent',
  examine: async (signal) => {
    const path = agentBinaryPath()
    if (!existsSync(path))
      return { state: 'missing', detail: 'not built', hint: 'bramble setup, or: make -C packages/agent' }
    const child = spawn(path, ['--stdio'], { stdio: ['pipe', 'pipe', 'ignore'], signal })
    const failed = once(child, 'error').then(([error]) => Promise.reject(error))
    const works = async (): Promise<void> => {
      await using connection = await connectAgent(Duplex.from({ writable: child.stdin, readable: child.stdout }), {
        signal,
      })
      await connection.ping({ signal })
    }
    try {
      await Promise.race([works(), failed])
      return { state: 'works', detail: `answers: ${path}` }
    } catch (error) {
      const hint = 'make -C packages/agent clean, then bramble setup'
      return { state: 'fails', detail: error instanceof Error ? error.message : String(error), hint }
    } finally {
      child.kill()
    }
  },
}

const images = (dataDirectory: string, nodeRuns: boolean): Part => ({
  group: 'bramble',
  name: 'images',
  examine: async () => {
    const directory = imagesDirectory(dataDirectory)
    if (!existsSync(directory)) return { state: 'missing', detail: 'no images yet', hint: 'bramble setup' }
    if (nodeRuns) return { state: 'works', detail: 'in use by the node that runs' }
    const all = (await openImageStore({ directory })).list()
    const whole = all.filter((image) => existsSync(image.rootfs))
    const detail = `${whole.length} of ${all.length} readable: ${all.flatMap(({ names }) => names).join(', ') || 'none named'}`
    if (whole.length < all.length) return { state: 'fails', detail, hint: 'Remove the others with bramble images rm.' }
    if (!all.some(({ names }) => names.includes('base'))) return { state: 'missing', detail, hint: 'bramble setup' }
    return { state: 'works', detail }
  },
})

const criu: Part = {
  group: 'bramble',
  name: 'criu',
  examine: async () => {
    const found = await findCriu()
    if ('command' in found)
      return {
        state: 'works',
        version: found.version,
        detail: `saves the memory of sandboxes: ${found.command.at(-1)}`,
      }
    return { state: 'missing', detail: `no memory of sandboxes is saved: ${found.reason}`, hint: 'bramble setup' }
  },
}

/** Opens a runtime on a directory of its own, which starts one sandbox for real, and closes it. */
const runtime = (
  name: string,
  open: (dataDirectory: string, onNotice: (text: string) => void) => Promise<Probe<Runtime>>,
): Part => ({
  group: RUNTIMES,
  name,
  examine: async () => {
    const directory = await mkdtemp(join(tmpdir(), 'bramble-doctor-'))
    try {
      const notices: string[] = []
      const probe = await open(directory, (text) => notices.push(text))
      if (!probe.available) return { state: 'fails', detail: probe.reason, hint: probe.hint }
      await using running = probe.runtime
      return describe(running, notices)
    } finally {
      await rm(directory, { recursive: true, force: true })
    }
  },
})

const describe = ({ capabilities }: Runtime, notices: readonly string[]): Omit<PartReport, 'group' | 'name'> => {
  const { limits, isolation, userNamespace, seccomp, network, keep, pause, volumes, seals, checkpoint } = capabilities
  const held = Object.entries(limits).flatMap(([name, enforced]) => (enforced ? [name] : []))
  const lacking = Object.entries(limits).flatMap(([name, enforced]) => (enforced ? [] : [name]))
  const extras = [userNamespace && 'user namespace', seccomp && 'seccomp', `network: ${network.join(', ')}`].filter(
    Boolean,
  )
  const offers = { instances: keep, pause, volumes, snapshots: seals, 'snapshots with memory': checkpoint }
  const names = (there: boolean): string =>
    Object.entries(offers)
      .flatMap(([name, offered]) => (offered === there ? [name] : []))
      .join(', ')
  const has = [...extras, ...(names(true) === '' ? [] : [names(true)])].join(', ')
  const detail = `a sandbox ran (${isolation}); limits: ${held.join(', ')}; ${has}`
  const short = [
    ...(lacking.length > 0 ? [`not enforced: ${lacking.join(', ')}`] : []),
    ...(names(false) === '' ? [] : [`not offered: ${names(false)}`]),
    ...notices,
  ]
  if (short.length === 0) return { state: 'works', detail }
  return { state: 'limited', detail: [detail, ...short].join('; ') }
}

const objectStore = (url: string): Part => ({
  group: 'bramble',
  name: 'object store',
  examine: async (signal) => {
    try {
      return { state: 'works', detail: `written and read: ${await checkObjectStore(url, { signal })}` }
    } catch (error) {
      const hint =
        'Blobs stay on this host until it answers; check BRAMBLE_OBJECT_STORE_URL, its server and its rights.'
      return { state: 'fails', detail: toBrambleError(error).detail, hint }
    }
  },
})

export interface BrambleOptions {
  readonly dataDirectory: string
  readonly nodeRuns: boolean
  readonly objectStoreUrl?: string | undefined
}

/** Our own parts, and the runtimes: each starts a sandbox for real. */
export const brambleParts = ({ dataDirectory, nodeRuns, objectStoreUrl }: BrambleOptions): Part[] => [
  agent,
  criu,
  images(dataDirectory, nodeRuns),
  ...(objectStoreUrl === undefined ? [] : [objectStore(objectStoreUrl)]),
  runtime('oci (crun)', (dataDirectory, onNotice) => oci({ binary: 'crun' })({ dataDirectory, onNotice })),
  runtime('oci (runc)', (dataDirectory, onNotice) => oci({ binary: 'runc' })({ dataDirectory, onNotice })),
  runtime('docker', (directory) => docker()({ dataDirectory: directory })),
]
