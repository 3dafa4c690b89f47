import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, chownSync, constants, globSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { createInterface } from 'node:readline'
import { Client } from 'pg'

/** A real PostgreSQL in a directory of its own, which ends with this process, however that ends. */
export interface PostgresServer extends AsyncDisposable {
  /** An empty database that nothing else uses: its URL. */
  newDatabase(): Promise<string>
  /** Ends it as a crash would: connections break, and what was not committed is gone. */
  crash(): Promise<void>
  /** After a crash. */
  start(): Promise<void>
  close(): Promise<void>
}

export interface PostgresServerOptions {
  /** Whether commits wait for the disk. Default false: faster, and no test loses its power. */
  readonly fsync?: boolean
  /** More settings, as in `postgresql.conf`. */
  readonly settings?: Readonly<Record<string, string>>
}

/** Of Debian, where PostgreSQL's programs are not on the PATH; else wherever they are. */
const binaries = (): string | undefined =>
  [...globSync('/usr/lib/postgresql/*/bin').sort().reverse(), ...(process.env.PATH ?? '').split(delimiter)].find(
    (directory) => {
      try {
        for (const name of ['initdb', 'postgres', 'pg_isready']) accessSync(join(directory, name), constants.X_OK)
        return true
      } catch {
        return false
      }
    },
  )

/**
 * Makes the data, and starts and stops the server as standard input says. It ends with standard input, so also when whoever
 * started it is killed, and leaves nothing. A server whose postmaster was killed is waited for, whole.
 */
const SUPERVISOR = `
dir=$1; shift
initdb --pgdata "$dir/data" --no-sync --auth trust --username bramble --no-locale --encoding UTF8 > "$dir/initdb.log" 2>&1 || {
  tail -n 5 "$dir/initdb.log"; exit 1
}
begin() {
  postgres -D "$dir/data" -k "$dir" -c listen_addresses= "$@" < /dev/null > "$dir/server.log" 2>&1 &
  server=$!
  until pg_isready -q -h "$dir"; do
    kill -0 $server 2> /dev/null || { tail -n 5 "$dir/server.log"; return; }
    sleep 0.02
  done
  echo ready
}
trap '' INT TERM HUP
begin "$@"
while read -r word; do
  case $word in
    crash) kill -QUIT $server; wait $server; echo crashed ;;
    start) begin "$@" ;;
  esac
done
kill -QUIT $server 2> /dev/null
wait $server
cd / && rm -rf "$dir"
`

/** What the operating system was given survives a crash of the server all the same. */
const quick = { fsync: 'off', full_page_writes: 'off' }
const common = { max_connections: '200', shared_buffers: '128MB', log_min_messages: 'fatal' }

/** Why this host has none goes into `skip`; `bramble setup --test` brings it. */
export const openPostgresServer = async (
  options: PostgresServerOptions = {},
): Promise<PostgresServer | { readonly skip: string }> => {
  const found = binaries()
  if (found === undefined) return { skip: 'there is no PostgreSQL here: `bramble setup --test` installs one' }
  const directory = mkdtempSync(join(tmpdir(), 'bramble-pg-'))
  const settings = Object.entries({ ...common, ...(!options.fsync && quick), ...options.settings })
  const script = [
    'sh',
    '-c',
    SUPERVISOR,
    'sh',
    directory,
    ...settings.flatMap(([key, value]) => ['-c', `${key}=${value}`]),
  ]
  let command = script
  // It does not run as root.
  if (process.getuid?.() === 0) {
    const user = await idsOf('postgres')
    if (!user) return { skip: 'there is no user `postgres`, and PostgreSQL does not run as root' }
    chownSync(directory, user.uid, user.gid)
    command = ['setpriv', `--reuid=${user.uid}`, `--regid=${user.gid}`, '--clear-groups', ...script]
  }
  const [program = '', ...args] = command
  const child = spawn(program, args, {
    cwd: directory,
    stdio: ['pipe', 'pipe', 'ignore'],
    // A signal to the group of the test is not for it: it has its own end.
    detached: true,
    env: { PATH: `${found}:${process.env.PATH}`, LC_ALL: 'C' },
  })
  const ended = once(child, 'close')
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]()
  const said = async (wanted: string): Promise<void> => {
    const { value } = await lines.next()
    if (value === wanted) return
    child.stdin.end()
    throw new Error(`PostgreSQL did not become ${wanted}: ${value}`)
  }
  const tell = async (word: string, answer: string): Promise<void> => {
    child.stdin.write(`${word}\n`)
    await said(answer)
  }
  const close = async (): Promise<void> => {
    child.stdin.end()
    await ended
    rmSync(directory, { recursive: true, force: true })
  }
  try {
    await said('ready')
  } catch (error) {
    await close()
    throw error
  }

  const urlOf = (database: string): string =>
    `postgresql://bramble@localhost/${database}?host=${encodeURIComponent(directory)}`
  let databases = 0
  return {
    async newDatabase() {
      const name = `t${++databases}`
      const client = new Client(urlOf('postgres'))
      await client.connect()
      try {
        await client.query(`create database ${name}`)
      } finally {
        await client.end()
      }
      return urlOf(name)
    },
    crash: () => tell('crash', 'crashed'),
    start: () => tell('start', 'ready'),
    close,
    [Symbol.asyncDispose]: close,
  }
}

const idsOf = async (user: string): Promise<{ uid: number; gid: number } | undefined> => {
  const child = spawn('sh', ['-c', `id -u ${user} && id -g ${user}`], { stdio: ['ignore', 'pipe', 'ignore'] })
  const numbers: number[] = []
  for await (const line of createInterface(child.stdout)) numbers.push(Number(line))
  const [uid, gid] = numbers
  return uid === undefined || gid === undefined ? undefined : { uid, gid }
}
