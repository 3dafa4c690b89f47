import type { SshKey } from '@bramble/sdk'
import type { Command } from 'commander'
import type { CliCommand } from '../command.ts'
import { readConfig } from '../config.ts'
import { addConnectionOptions, type ConnectionOptions, clientOf, connect, requireNode } from '../connection.ts'
import { EXIT, ExitError } from '../exit.ts'
import { formatAge } from '../format.ts'
import { SSH_PORT } from '../node/node-config.ts'
import { type Column, printList } from '../terminal.ts'

interface ListOptions extends ConnectionOptions {
  readonly json?: boolean
}

interface AddOptions extends ListOptions {
  readonly name?: string
}

const COLUMNS: Column<SshKey>[] = [
  { title: 'ID', text: (key) => key.id },
  { title: 'NAME', text: (key) => key.name },
  { title: 'TYPE', text: (key) => key.type },
  { title: 'FINGERPRINT', text: (key) => key.fingerprint },
  { title: 'CREATED', text: (key) => formatAge(key.createdAt) },
]

const list = async (options: ListOptions): Promise<void> => {
  const bramble = await connect(options)
  printList(await bramble.sshKeys.list().all(), COLUMNS, { json: options.json === true, empty: 'no SSH keys' })
}

const add = async (file: string | undefined, options: AddOptions): Promise<void> => {
  const address = requireNode(options)
  const bramble = await clientOf(address)
  const publicKey = await readKey(file)
  const name = options.name ?? publicKey.split(/\s+/)[2] ?? 'unnamed'
  const made = await bramble.sshKeys.add({ name, publicKey })
  if (options.json === true) console.log(JSON.stringify(made, null, 2))
  else {
    const { sshPort = SSH_PORT, url } = address
    const where = `ssh -p ${sshPort} <instance>@${new URL(url).hostname.replace(/^\[(.*)\]$/, '$1')}`
    process.stderr.write(`${made.fingerprint} opens the instances of ${made.tenant}: ${where}\n`)
    console.log(made.id)
  }
}

/** Where ssh-keygen(1) puts them, newest kind first. */
const USUAL = ['id_ed25519.pub', 'id_ecdsa.pub', 'id_rsa.pub']

const readKey = async (file: string | undefined): Promise<string> => {
  const { readFile } = await import('node:fs/promises')
  const { join } = await import('node:path')
  const files = file === undefined ? USUAL.map((name) => join(readConfig().home, '.ssh', name)) : [file]
  for (const path of files) {
    const text = await readFile(path === '-' ? '/dev/stdin' : path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined
      throw new ExitError(EXIT.failure, `${path}: ${error.message}`)
    })
    if (text === undefined) continue
    if (text.includes('PRIVATE KEY'))
      throw new ExitError(EXIT.failure, `${path} is a private key`, 'Give the public one, which ends in .pub.')
    return text.trim()
  }
  const what = file === undefined ? 'there is no public key in ~/.ssh' : `${file}: there is no such file`
  throw new ExitError(EXIT.failure, what, '`ssh-keygen -t ed25519` makes one.')
}

const remove = async (ids: string[], options: ListOptions): Promise<void> => {
  const bramble = await connect(options)
  for (const id of ids) {
    await bramble.sshKeys.remove(id)
    console.log(id)
  }
}

const common = (command: Command): Command =>
  addConnectionOptions(command.option('--json', 'JSON, which is also what a pipe gets'))

export default {
  name: 'ssh-keys',
  summary: 'List, add and remove the keys that open instances over SSH',
  configure(command) {
    common(command.command('list', { isDefault: true }).description('list the keys')).action(list)
    common(command.command('add').description('let a key in'))
      .argument('[file]', 'a public key, or - for standard input (default: the one in ~/.ssh)')
      .option('--name <name>', 'what to call it (default: the comment of the key)')
      .action(add)
    common(command.command('rm').description('remove keys: they stop working at once'))
      .argument('<id...>', 'as `bramble ssh-keys` shows it')
      .action(remove)
  },
} satisfies CliCommand
