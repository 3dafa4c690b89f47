import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFile, mkdir, mkdtemp, readFile, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { finished } from 'node:stream/promises'
import { BrambleError } from '@bramble/protocol'
import type Docker from 'dockerode'
import { statusOf, wordsOf } from './engine.ts'

const TAR_XATTRS = ['--xattrs', '--xattrs-include=security.capability']
const maxKeptStderrBytes = 4096

/** The agent on this host, and the digest that names the images made with it. */
export interface AgentProgram {
  readonly path: string
  readonly digest: string
}

export const readAgent = async (path: string): Promise<AgentProgram> => ({
  path,
  digest: createHash('sha256')
    .update(await readFile(path))
    .digest('hex'),
})

/** The engine's name for an image with an agent in it. */
export const tagOf = (imageDigest: string, agent: AgentProgram): string =>
  `bramble/${imageDigest.replace('sha256:', '').slice(0, 12)}-${agent.digest.slice(0, 8)}:latest`

/**
 * Brings `rootfs` with the agent at `/.bramble/agent` into the engine under `tag`, unless it is there. Without `rootfs`
 * there is nothing but the agent. Nothing of this host is mounted, so the engine may be anywhere.
 */
export const loadImage = async (
  engine: Docker,
  tag: string,
  agent: AgentProgram,
  rootfs: string | undefined,
  signal: AbortSignal | undefined,
): Promise<void> => {
  if (await hasImage(engine, tag)) return
  const staging = await mkdtemp(join(tmpdir(), 'bramble-docker-'))
  try {
    await mkdir(join(staging, '.bramble'), { mode: 0o755 })
    await copyFile(agent.path, join(staging, '.bramble/agent'))
    await symlink('agent', join(staging, '.bramble/bramble-emit'))
    const mountPoints = rootfs === undefined ? ['dev', 'etc', 'proc', 'sys'] : []
    for (const directory of mountPoints) await mkdir(join(staging, directory))
    const image = rootfs === undefined ? [] : ['-C', rootfs, '.']
    await importTar(engine, tag, [...image, '-C', staging, '.bramble', ...mountPoints], signal)
  } finally {
    await rm(staging, { recursive: true, force: true })
  }
}

/** Puts the agent of this host in the place of the one in a container that does not run. */
export const refreshAgent = async (container: Docker.Container, agent: AgentProgram): Promise<void> => {
  const member = ['-C', dirname(agent.path), '--transform=s,.*,.bramble/agent,', basename(agent.path)]
  const owned = ['--numeric-owner', '--owner=0', '--group=0', '--mode=755']
  const tar = spawn('tar', ['-c', '-f', '-', ...owned, ...member], { stdio: ['ignore', 'pipe', 'ignore'] })
  const failed = new Promise<never>((_resolve, reject) => tar.once('error', reject))
  await Promise.race([container.putArchive(tar.stdout, { path: '/' }), failed])
}

const hasImage = async (engine: Docker, tag: string): Promise<boolean> => {
  try {
    await engine.getImage(tag).inspect()
    return true
  } catch (error) {
    if (statusOf(error) === 404) return false
    throw error
  }
}

/** `POST /images/create?fromSrc=-`: a root filesystem as one layer, in the bytes of tar(1). */
const importTar = async (
  engine: Docker,
  tag: string,
  members: readonly string[],
  signal: AbortSignal | undefined,
): Promise<void> => {
  const xattrs = process.platform === 'linux' ? TAR_XATTRS : []
  const tar = spawn('tar', ['-c', '-f', '-', '--numeric-owner', ...xattrs, ...members], {
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(signal && { signal }),
  })
  const ended = new Promise<string | undefined>((resolve) => {
    tar.once('error', (error) => resolve(error.message))
    tar.once('close', (code) => resolve(code === 0 ? undefined : `tar exited with ${code}`))
  })
  let words = ''
  tar.stderr.on('data', (data) => {
    words = `${words}${data}`.slice(-maxKeptStderrBytes)
  })
  const [repo] = tag.split(':')
  try {
    const answer = await engine.importImage(tar.stdout, { repo, tag: 'latest', abortSignal: signal })
    // The engine answers in lines of progress; a failure is one of them.
    for await (const line of answer) if (/"error"/.test(String(line))) throw new Error(String(line).trim())
    await finished(answer as NodeJS.ReadableStream).catch(() => undefined)
    const failure = await ended
    if (failure !== undefined) throw new Error(`${failure}: ${words.trim()}`)
  } catch (cause) {
    tar.kill('SIGKILL')
    signal?.throwIfAborted()
    await removeImage(engine, tag)
    throw new BrambleError('sandbox_failed', { detail: `the image could not be loaded: ${wordsOf(cause)}`, cause })
  }
}

/** Removes the engine's copy; one that a container still uses stays. */
export const removeImage = async (engine: Docker, tag: string): Promise<void> => {
  try {
    await engine.getImage(tag).remove()
  } catch (error) {
    const status = statusOf(error)
    if (status !== 404 && status !== 409) throw error
  }
}
