import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readFile, realpath, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { type Engine, openEngine } from '@bramble/engine'
import type { Instance, InstanceSpecInput, KeyRequest, NewApiKey } from '@bramble/protocol'
import { buildBaseImage, type ImageStore, oci, openImageStore } from '@bramble/runtime'
import { type Gateway, type GatewayOptions, openGateway } from '../src/index.ts'

const run = promisify(execFile)
const DISK_BYTES = 4 * 1024 ** 3
const BUSYBOX = '/bin/busybox'

/** A whole node with real sandboxes, whose image `base` is busybox. */
export interface RealNode extends AsyncDisposable {
  readonly directory: string
  readonly engine: Engine
  readonly images: ImageStore
  readonly gateway: Gateway
  readonly key: string
  fetch(path: string, init?: RequestInit & { json?: unknown; key?: string }): Promise<Response>
  newKey(request: Partial<KeyRequest>): Promise<NewApiKey>
  start(spec?: InstanceSpecInput, key?: string): Promise<Instance>
  /** Runs a command in an instance and gives its output; throws when it fails. */
  sh(instance: string, command: string): Promise<string>
}

/** Why there is none on this host; throws where `REQUIRE_DRIVERS` says that there must be one. */
export const openRealNode = async (options: Partial<GatewayOptions> = {}): Promise<RealNode | { skip: string }> => {
  await using undo = new AsyncDisposableStack()
  const directory = await mkdtemp(join(tmpdir(), 'bramble-gateway-'))
  undo.defer(() => rm(directory, { recursive: true, force: true }))
  const probe = await oci({ diskBytes: DISK_BYTES })({ dataDirectory: directory })
  if (!probe.available || !probe.runtime.capabilities.keep) {
    const skip = probe.available ? 'this host keeps no sandboxes' : probe.reason
    if (probe.available) await probe.runtime.close()
    if (process.env.REQUIRE_DRIVERS?.split(',').includes('oci')) throw new Error(skip)
    return { skip }
  }
  const runtime = undo.use(probe.runtime)
  const images = await openImageStore({ directory: join(directory, 'images') })
  await buildBaseImage(images, { busyboxPath: BUSYBOX })
  const limits = { minReady: 0 }
  const engine = await openEngine({ dataDirectory: directory, runtimes: [runtime], images, limits })
  undo.defer(() => engine.close({ graceMs: 0 }))
  const gateway = await openGateway({ engine, dataDirectory: directory, port: 0, version: '1.2.3', ...options })
  undo.defer(() => gateway.close({ graceMs: 0 }))
  const key = gateway.adminKey ?? ''
  const removeInstances = async (): Promise<void> => {
    const { items } = await engine.instances.list({ tenant: 'default', limit: 100 })
    const others = await engine.instances.list({ tenant: 'other', limit: 100 })
    await Promise.all([
      ...items.map(({ id }) => engine.instances.remove(id, 'default')),
      ...others.items.map(({ id }) => engine.instances.remove(id, 'other')),
    ])
  }
  undo.defer(removeInstances)
  const held = undo.move()

  const ok = async (response: Response): Promise<Response> => {
    if (response.ok) return response
    throw new Error(`${response.status} ${await response.text()}`)
  }
  const node: RealNode = {
    directory,
    engine,
    images,
    gateway,
    key,
    fetch: (path, { json, key: other, ...init } = {}) =>
      fetch(gateway.url + path, {
        redirect: 'manual',
        ...init,
        ...(json !== undefined && { method: init.method ?? 'POST', body: JSON.stringify(json) }),
        headers: {
          authorization: `Bearer ${other ?? key}`,
          ...(json !== undefined && { 'content-type': 'application/json' }),
          ...(init.headers as Record<string, string> | undefined),
        },
      }),
    newKey: async (request) => {
      const made = await ok(await node.fetch('/api/v1/keys', { json: { name: 'test', ...request } }))
      return (await made.json()) as NewApiKey
    },
    start: async (spec = {}, other = key) =>
      (await (await ok(await node.fetch('/api/v1/instances', { json: spec, key: other }))).json()) as Instance,
    sh: async (instance, command) => {
      const answer = await ok(await node.fetch(`/api/v1/instances/${instance}/exec`, { json: { command } }))
      const { exitCode, stdout, stderr } = (await answer.json()) as { exitCode: number; stdout: string; stderr: string }
      if (exitCode !== 0) throw new Error(`${command}: ${exitCode} ${stderr}`)
      return stdout
    },
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  }
  return node
}

/** An image of busybox with programs of this host and the libraries that they need: `name` is `programs[0]`. */
export const importHostPrograms = async (node: RealNode, name: string, programs: readonly string[]): Promise<void> => {
  const folder = await mkdtemp(join(node.directory, 'programs-'))
  const rootfs = join(folder, 'rootfs')
  const put = async (path: string): Promise<void> => {
    await mkdir(join(rootfs, dirname(path)), { recursive: true })
    await cp(await realpath(path), join(rootfs, path))
  }
  await mkdir(join(rootfs, 'tmp'), { recursive: true, mode: 0o1777 })
  await mkdir(join(rootfs, 'bin'))
  await cp(BUSYBOX, join(rootfs, 'bin/busybox'))
  const { stdout: applets } = await run(BUSYBOX, ['--list'])
  for (const applet of applets.trim().split('\n'))
    if (applet !== 'busybox') await symlink('busybox', join(rootfs, 'bin', applet))
  await mkdir(join(rootfs, 'etc'))
  await mkdir(join(rootfs, 'root'))
  await writeFile(join(rootfs, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n')
  for (const program of programs) {
    await put(program)
    const { stdout } = await run('ldd', [program])
    for (const [library] of stdout.matchAll(/\/[^\s()]+/g)) await put(library)
  }
  const path = join(folder, 'rootfs.tar')
  await run('tar', ['-C', rootfs, '-cf', path, '.'])
  await node.images.import({ kind: 'rootfsTar', path }, { name })
  await rm(folder, { recursive: true, force: true })
}

/** The text of a file, or nothing where it is not there. */
export const textOf = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '')
