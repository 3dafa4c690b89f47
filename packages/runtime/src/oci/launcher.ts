import type { Socket } from 'node:net'
import { BrambleError, type ErrorCode } from '@bramble/protocol'
import type { SandboxMount, VolumeKind } from '../runtime.ts'
import { encodeMessage, readMessages } from './launcher-messages.ts'
import { connectLauncher, type LauncherOptions, startLauncher } from './launcher-process.ts'

/** Raised with each change of the requests (`launcher/src/launcher.h`): a kept sandbox may run under an older launcher. */
const PROTOCOL_VERSION = 2
/**
 * The launcher answers within its own limit for a start (30 s), or it hangs, and is killed. A sandbox whose end the kernel
 * draws out is no reason to end the others: that is an error of its own.
 */
const ANSWER_TIMEOUT_MS = 90_000
/** Launchers that may go, one after another, while we connect to them. */
const MAX_CONNECTS = 5

/** Where the launcher keeps a folder for each sandbox, in its own mount namespace (`launcher/src/launcher.h`). */
export const LAUNCHER_RUN = '/run'
export const LAUNCHER_OCI_STATE = '/run/.oci'

export interface CreateRequest {
  id: string
  /** First host id of the 65,536 that the sandbox's ids 0 to 65,535 become. */
  uidBase: number
  diskBytes: number
  /** The layer of a kept sandbox; absent: it ends with its sandbox, and that with the connection. */
  layer?: string | undefined
  /** Layer directories, the topmost first. */
  lowers: readonly string[]
  /** They are mounted at `v0`, `v1`, … of the bundle. */
  mounts?: readonly SandboxMount[] | undefined
  /** The OCI configuration, as JSON; of a sandbox whose processes are restored, empty. */
  config: string
  /** The seal it continues. */
  from?: string | undefined
  /** Its processes, too; `images` are those that are other ones than the seal's. */
  memory?:
    | {
        readonly connections: 'keep' | 'close'
        readonly images: ReadonlyMap<string, Uint8Array>
        /** The network whose link it gets. */
        readonly network?:
          | { readonly namespacePath: string; readonly address: string; readonly host: string }
          | undefined
      }
    | undefined
}

export interface KeptSandbox {
  readonly id: string
  readonly uidBase: number
  readonly layer: string
}

export interface LauncherEvents {
  /** A sandbox ended by itself; the launcher has released what it held. */
  onEnded: (id: string, oomKills: number) => void
  /** What people should hear of: the disk was lost. */
  onNotice: (text: string) => void
}

/**
 * The runtime's end of the launcher (`packages/runtime/launcher/README.md`): a process in a mount namespace of its own
 * that makes sandboxes and removes them, and lives on while it keeps some. Requests run side by side; each answers when it
 * is done.
 */
export interface Launcher extends AsyncDisposable {
  readonly pid: number
  /** Whether its layers can outlive their sandboxes. */
  readonly keeps: boolean
  /** Kept sandboxes that run. */
  kept(): Promise<KeptSandbox[]>
  /** Removes the sandboxes that earlier launchers of this directory left. Returns how many, those removed at its start included. */
  reap(): Promise<number>
  /** Resolves when the agent of the sandbox listens. Rejects with `conflict` when a sandbox runs on the layer. */
  create(request: CreateRequest): Promise<void>
  /** Resolves when nothing of the sandbox is left but its layer, if that is kept. One that is not there is destroyed already. */
  destroy(id: string): Promise<void>
  /** Bytes in the sandbox's writable layer. */
  diskUsed(id: string): Promise<number>
  list(): Promise<string[]>
  layers(): Promise<string[]>
  layerUsed(layer: string): Promise<number>
  /** Rejects with `conflict` when a sandbox runs on it. */
  removeLayer(layer: string): Promise<void>
  /**
   * Makes a seal of a sandbox that is frozen; with `memory`, of its processes, too. `mounts`: where its volumes are. It is not
   * there for others before `finishSeal`. Rejects with `checkpoint_refused` when the processes cannot be saved.
   */
  seal(id: string, name: string, memory: boolean, mounts: readonly string[]): Promise<void>
  /** An empty seal, to be filled at `launcherSealPath` before `finishSeal`. */
  createSeal(name: string, bytes: number): Promise<void>
  finishSeal(name: string): Promise<void>
  /** Whole or not. */
  removeSeal(name: string): Promise<void>
  seals(): Promise<string[]>
  /** Resolves when what was written to the disk before is on stable storage. */
  sync(): Promise<void>
  createVolume(name: string, bytes: number): Promise<void>
  nextGeneration(name: string, before?: string): Promise<void>
  /** Rejects with `conflict` when a sandbox has it mounted. */
  removeVolume(kind: VolumeKind, name: string): Promise<void>
  volumes(kind: VolumeKind): Promise<string[]>
  volumeUsed(kind: VolumeKind, name: string): Promise<number>
  /** Resolves when the connection has ended, asked or not. */
  readonly closed: Promise<void>
  /** Ends every sandbox that is not kept, and lets go of the launcher, which goes when it keeps none. */
  close(): Promise<void>
}

interface Waiting {
  resolve(text: string): void
  reject(error: Error): void
  timer: NodeJS.Timeout
}

type Greeting = { pid: number; keeps: boolean; notice: string }

const parseGreeting = (text: string): Greeting => {
  const values = new Map(text.split('\n').map((line) => [line.split('=', 1)[0], line.slice(line.indexOf('=') + 1)]))
  return {
    pid: Number(values.get('pid')),
    keeps: values.get('disk') === 'btrfs',
    notice: values.get('notice') ?? '',
  }
}

/** How the launcher names them, and where they lie on its disk. */
const KINDS: Readonly<Record<VolumeKind, { request: string; folder: string }>> = {
  volume: { request: 'volume', folder: '.volumes' },
  generation: { request: 'cache', folder: '.caches' },
  upper: { request: 'upper', folder: '.uppers' },
}

/** Where a part of the volume store lies in the launcher's mount namespace. */
export const launcherVolumePath = (kind: VolumeKind, name: string): string =>
  `${LAUNCHER_RUN}/disk/${KINDS[kind].folder}/${name}`

/** Where a seal lies in the launcher's mount namespace, before and after it is finished. */
export const launcherSealPath = (name: string, finished = true): string =>
  `${LAUNCHER_RUN}/disk/.seals/${finished ? '' : '.'}${name}`

const mountSettings = (mount: SandboxMount): string[] => [
  ...(mount.kind === 'volume'
    ? [`volume=${mount.volume}`]
    : [`cache=${mount.name}`, ...mount.generations.map((name) => `generation=${name}`)]),
  `at=${mount.path}`,
]

const linesOf = (text: string): string[] => text.split('\n').filter((line) => line !== '')

/** What a reply that is neither `ok` nor `error` means. */
const CODES: Readonly<Record<string, ErrorCode>> = {
  conflict: 'conflict',
  missing: 'not_found',
  refused: 'checkpoint_refused',
}

/** Speaks on a connection. Resolves to undefined when the launcher goes rather than serve. */
const speak = async (
  socket: Socket,
  options: LauncherOptions,
  events: LauncherEvents,
): Promise<Launcher | undefined> => {
  const waiting = new Map<string, Waiting>()
  const { promise: closed, resolve: resolveClosed } = Promise.withResolvers<void>()
  let refusal: string | undefined
  let complaint = ''
  let tags = 0
  let ended = false
  let pid: number | undefined

  const kill = (): void => {
    socket.destroy()
    if (pid === undefined || ended) return
    try {
      // It has not ended, for its end of the connection is open: the pid is its own.
      process.kill(pid, 'SIGKILL')
    } catch {}
  }
  socket.on('error', () => {})
  socket.on('close', () => {
    ended = true
    const error = new BrambleError('sandbox_failed', {
      detail: `the launcher ended: ${complaint || 'no reason given'}`,
    })
    for (const { reject, timer } of waiting.values()) {
      clearTimeout(timer)
      reject(error)
    }
    waiting.clear()
    resolveClosed()
  })
  readMessages(
    socket,
    ([tag = '', kind, text = '', extra = '']) => {
      if (pid === undefined && kind === 'refused') refusal = text
      if (tag === '' && kind === 'fatal') complaint = text
      else if (tag === '' && kind === 'ended') events.onEnded(text, Number(extra) || 0)
      else {
        const waiter = waiting.get(tag)
        waiting.delete(tag)
        clearTimeout(waiter?.timer)
        if (kind === 'ok') waiter?.resolve(text)
        else waiter?.reject(new BrambleError(CODES[kind ?? ''] ?? 'sandbox_failed', { detail: text }))
      }
    },
    kill,
  )
  const request = (operation: string, ...fields: string[]): Promise<string> => {
    const tag = String(++tags)
    const answer = Promise.withResolvers<string>()
    if (ended) answer.reject(new BrambleError('sandbox_failed', { detail: 'the launcher has ended' }))
    else {
      const timer = setTimeout(() => {
        const detail = `no answer to \`${operation}\` within ${ANSWER_TIMEOUT_MS} ms`
        waiting.delete(tag)
        answer.reject(new BrambleError('sandbox_failed', { detail }))
        if (operation === 'destroy' || operation === 'seal') return
        complaint ||= detail
        kill()
      }, ANSWER_TIMEOUT_MS)
      waiting.set(tag, { ...answer, timer })
      socket.write(encodeMessage([tag, operation, ...fields]))
    }
    return answer.promise
  }

  const { ociBinary, cgroup, hierarchies, hide = '', criu = [] } = options
  const hello = request(
    'hello',
    String(PROTOCOL_VERSION),
    ociBinary,
    cgroup,
    hierarchies.join('\n'),
    hide,
    criu.join('\n'),
  )
  const greeting = await hello.then(parseGreeting, () => undefined)
  if (refusal !== undefined) {
    socket.destroy()
    throw new BrambleError('sandbox_failed', { detail: refusal })
  }
  if (greeting === undefined) {
    await closed
    return undefined
  }
  pid = greeting.pid
  if (greeting.notice !== '') events.onNotice(greeting.notice)

  const close = (): Promise<void> => {
    socket.end()
    return closed
  }
  return {
    pid,
    keeps: greeting.keeps,
    kept: async () =>
      linesOf(await request('kept')).map((line) => {
        const [id = '', uidBase, layer = ''] = line.split('\t')
        return { id, uidBase: Number(uidBase), layer }
      }),
    reap: async () => Number(await request('reap')),
    create: async ({ id, uidBase, diskBytes, layer, lowers, mounts = [], config, from, memory }) => {
      const settings = [
        `uid=${uidBase}`,
        `disk=${diskBytes}`,
        ...(layer === undefined ? [] : [`layer=${layer}`]),
        ...lowers.map((path) => `lower=${path}`),
        ...mounts.flatMap(mountSettings),
        ...(from === undefined ? [] : [`from=${from}`]),
        ...(memory === undefined ? [] : [`memory=${memory.connections}`]),
        ...(memory?.network === undefined
          ? []
          : [`network=${memory.network.namespacePath} ${memory.network.address} ${memory.network.host} ${uidBase}`]),
        ...[...(memory?.images ?? [])].map(([name, bytes]) => `image=${name}:${Buffer.from(bytes).toString('hex')}`),
      ]
      if (settings.some((setting) => setting.includes('\n')))
        throw new BrambleError('sandbox_failed', { detail: 'the path of a layer or a mount has a line break' })
      await request('create', id, settings.join('\n'), config)
    },
    destroy: async (id) => {
      await request('destroy', id)
    },
    diskUsed: async (id) => Number(await request('used', id)),
    list: async () => linesOf(await request('list')),
    layers: async () => linesOf(await request('layers')),
    layerUsed: async (layer) => Number(await request('layer-used', layer)),
    removeLayer: async (layer) => {
      await request('layer-remove', layer)
    },
    seal: async (id, name, memory, mounts) => {
      await request('seal', id, name, memory ? 'memory' : 'files', mounts.join('\n'))
    },
    createSeal: async (name, bytes) => {
      await request('seal-create', name, String(bytes))
    },
    finishSeal: async (name) => {
      await request('seal-finish', name)
    },
    removeSeal: async (name) => {
      await request('seal-remove', name)
    },
    seals: async () => linesOf(await request('seals')),
    sync: async () => {
      await request('sync')
    },
    createVolume: async (name, bytes) => {
      await request('volume-create', name, String(bytes))
    },
    nextGeneration: async (name, before = '') => {
      await request('cache-next', name, before)
    },
    removeVolume: async (kind, name) => {
      await request(`${KINDS[kind].request}-remove`, name)
    },
    volumes: async (kind) => linesOf(await request(`${KINDS[kind].request}s`)),
    volumeUsed: async (kind, name) => Number(await request(`${KINDS[kind].request}-used`, name)),
    closed,
    close,
    [Symbol.asyncDispose]: close,
  }
}

/**
 * Connects to the launcher of a directory, starting one where there is none. Rejects with `sandbox_failed` when it serves
 * another node, or keeps sandboxes that this version or these settings cannot take over: it says what to do then.
 */
export const openLauncher = async (options: LauncherOptions, events: LauncherEvents): Promise<Launcher> => {
  for (let tries = 0; tries < MAX_CONNECTS; tries++) {
    let socket = await connectLauncher(options.directory)
    if (socket === undefined) {
      await startLauncher(options)
      socket = await connectLauncher(options.directory)
    }
    const launcher = socket && (await speak(socket, options, events))
    if (launcher !== undefined) return launcher
  }
  throw new BrambleError('sandbox_failed', {
    detail: `${MAX_CONNECTS} launchers went while this node connected to them`,
  })
}
