import { execFile, spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { promisify } from 'node:util'
import { onTestFinished } from 'vitest'

const run = promisify(execFile)

/** OpenSSH's clients with a home of their own: no key or configuration of whoever runs the tests. */
export interface OpenSsh {
  readonly folder: string
  /** Arguments that every client of OpenSSH takes. */
  readonly options: readonly string[]
  /** The text of the public key. */
  readonly publicKey: string
  ssh(args: readonly string[], input?: Uint8Array): Promise<Ran>
  tool(program: string, args: readonly string[], input?: Uint8Array, env?: Record<string, string>): Promise<Ran>
}

export interface Ran {
  readonly code: number | null
  readonly stdout: Buffer
  readonly stderr: string
}

export type KeyType = 'ed25519' | 'ecdsa' | 'rsa'

export const openSsh = async (port: number, type: KeyType = 'ed25519'): Promise<OpenSsh> => {
  const folder = await mkdtemp(join(tmpdir(), 'bramble-ssh-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  const key = join(folder, 'key')
  await run('ssh-keygen', ['-q', '-t', type, '-N', '', '-f', key])
  const set = (name: string, value: string): string[] => ['-o', `${name}=${value}`]
  const options = [
    ...['-F', 'none', '-i', key],
    ...set('Port', String(port)),
    ...set('StrictHostKeyChecking', 'accept-new'),
    ...set('UserKnownHostsFile', join(folder, 'known_hosts')),
    ...set('IdentitiesOnly', 'yes'),
    ...set('IdentityAgent', 'none'),
    ...set('LogLevel', 'ERROR'),
    ...set('NumberOfPasswordPrompts', '1'),
  ]
  const tool: OpenSsh['tool'] = async (program, args, input = new Uint8Array(), env = {}) => {
    const child = spawn(program, args, { env: { PATH: process.env.PATH, SSH_ASKPASS_REQUIRE: 'force', ...env } })
    onTestFinished(() => void child.kill('SIGKILL'))
    child.stdin.on('error', () => {})
    child.stdin.end(input)
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve))
    const [stdout, stderr] = await Promise.all([buffer(child.stdout), buffer(child.stderr)])
    return { code: await ended, stdout, stderr: stderr.toString() }
  }
  return {
    folder,
    options,
    publicKey: await readFile(`${key}.pub`, 'utf8'),
    ssh: (args, input) => tool('ssh', [...options, ...args], input),
    tool,
  }
}
