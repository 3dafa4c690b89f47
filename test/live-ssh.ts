import { execFile, spawn } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { promisify } from 'node:util'
import { onTestFinished } from 'vitest'

const run = promisify(execFile)

export interface Ran {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** OpenSSH's clients with a home and a key of their own. */
export interface SshUser {
  readonly folder: string
  readonly publicKey: string
  readonly options: readonly string[]
  /** `password`: instead of the key. */
  ssh(args: readonly string[], options?: { input?: string; password?: string }): Promise<Ran>
  sftp(login: string, batch: string): Promise<Ran>
  /** One that runs until it is killed, at the latest when the test ends. */
  spawn(args: readonly string[]): ReturnType<typeof spawn>
}

export const openSshUser = async (port: number): Promise<SshUser> => {
  const folder = await mkdtemp(join(tmpdir(), 'bramble-ssh-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  const key = join(folder, 'key')
  await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key])
  const askPass = join(folder, 'ask-pass')
  await writeFile(askPass, '#!/bin/sh\nprintf %s "$PASSWORD"\n', { mode: 0o755 })
  const set = (name: string, value: string): string[] => ['-o', `${name}=${value}`]
  const common = [
    ...['-F', 'none'],
    ...set('Port', String(port)),
    ...set('StrictHostKeyChecking', 'no'),
    ...set('UserKnownHostsFile', '/dev/null'),
    ...set('IdentityAgent', 'none'),
    ...set('LogLevel', 'ERROR'),
    ...set('NumberOfPasswordPrompts', '1'),
  ]
  const withKey = [...common, '-i', key, ...set('IdentitiesOnly', 'yes')]
  const start = (program: string, args: readonly string[], password?: string) => {
    const env = { PATH: process.env.PATH, SSH_ASKPASS_REQUIRE: 'force', SSH_ASKPASS: askPass, PASSWORD: password }
    const child = spawn(program, args, { env })
    child.stdin.on('error', () => {})
    onTestFinished(() => void child.kill('SIGKILL'))
    return child
  }
  const finish = async (child: ReturnType<typeof start>, input: string): Promise<Ran> => {
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve))
    child.stdin.end(input)
    const [stdout, stderr] = await Promise.all([buffer(child.stdout), buffer(child.stderr)])
    return { code: await ended, stdout: stdout.toString(), stderr: stderr.toString() }
  }
  return {
    folder,
    publicKey: await readFile(`${key}.pub`, 'utf8'),
    options: withKey,
    ssh: (args, { input = '', password } = {}) => {
      const how = password === undefined ? withKey : [...common, ...set('PubkeyAuthentication', 'no')]
      return finish(start('ssh', [...how, ...args], password), input)
    },
    sftp: (login, batch) => finish(start('sftp', [...withKey, '-b', '-', login]), batch),
    spawn: (args) => start('ssh', [...withKey, ...args]),
  }
}
