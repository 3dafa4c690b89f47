import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { onTerminal } from '@bramble/cli/testing'
import { Bramble, type Instance } from '@bramble/sdk'
import { afterAll, beforeAll, beforeEach, describe, expect, type TestContext, test } from 'vitest'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { openSshUser } from './live-ssh.ts'
import { openScreen, type Screen } from './screen.ts'

/** Programs that people use on terminals, and apt, in instances of a Debian image that is made here. */

const PACKAGES = ['vim-tiny', 'less', 'procps', 'ncurses-bin', 'python3']
const MAIN = join(import.meta.dirname, '../packages/cli/src/main.ts')
const SIZE = { cols: 100, rows: 30 }
const run = promisify(execFile)

let skip: string | undefined
let node: LiveNode | undefined
let bramble: Bramble
let box: Instance

const whyNoDebian = async (): Promise<string | undefined> => {
  for (const tool of ['mmdebstrap', 'umoci', 'python3', 'ssh'])
    if ((await run('sh', ['-c', `command -v ${tool}`]).catch(() => undefined)) === undefined)
      return `${tool} is not installed`
  const index = 'http://deb.debian.org/debian/dists/bookworm/InRelease'
  const answer = await fetch(index, { method: 'HEAD' }).catch(() => undefined)
  return answer?.ok ? undefined : "Debian's packages cannot be reached"
}

beforeAll(async () => {
  skip = await whyNoDebian()
  if (skip !== undefined) return
  const opened = await openLiveNode()
  if ('skip' in opened) {
    skip = opened.skip
    return
  }
  node = opened
  const env = { ...process.env, BRAMBLE_DATA_DIR: node.dataDirectory }
  await run(process.execPath, [MAIN, 'images', 'build', 'debian', '--packages', PACKAGES.join(',')], { env })
  bramble = new Bramble({ url: node.url, apiKey: node.key })
  box = await bramble.instances.start({ image: 'debian', name: 'box' })
}, 400_000)
beforeEach((context: TestContext) => {
  if (skip !== undefined) context.skip(skip)
})
afterAll(async () => await node?.[Symbol.asyncDispose]())

interface Shell extends AsyncDisposable {
  readonly screen: Screen
  /** The exit code of the way to it. */
  readonly ended: Promise<number | null>
}

const overWebSocket = async (): Promise<Shell> => {
  const terminal = await box.pty(SIZE)
  const screen = openScreen(SIZE, {
    send: (keys) => void terminal.write(keys),
    resized: (cols, rows) => void terminal.resize(cols, rows),
  })
  const shown = (async () => {
    for await (const bytes of terminal) screen.write(bytes)
    return (await terminal.exited).exitCode
  })()
  return {
    screen,
    ended: shown,
    async [Symbol.asyncDispose]() {
      terminal.close()
      await shown.catch(() => {})
      screen[Symbol.dispose]()
    },
  }
}

const inTerminal = (argv: readonly string[], env: Record<string, string>): Shell => {
  const { child, ended } = onTerminal(argv, { ...env, TERM: 'xterm-256color' })
  const screen = openScreen(SIZE, {
    send: (keys) => void child.stdin?.write(keys),
    resized: (cols, rows) => void child.stdin?.write(Buffer.from([0, cols, rows])),
  })
  child.stdout?.on('data', screen.write)
  return {
    screen,
    ended: ended.then(({ code }) => code),
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await ended
      screen[Symbol.dispose]()
    },
  }
}

const WAYS: Record<string, (open: LiveNode) => Shell | Promise<Shell>> = {
  'the WebSocket': overWebSocket,
  'bramble shell': ({ dataDirectory }) =>
    inTerminal([process.execPath, MAIN, 'shell', 'box'], { BRAMBLE_DATA_DIR: dataDirectory }),
  async 'ssh -t'({ sshPort, ask }) {
    const user = await openSshUser(sshPort)
    await ask('POST', '/api/v1/ssh-keys', { json: { name: 'test', publicKey: user.publicKey } })
    return inTerminal(['ssh', '-tt', ...user.options, 'box@127.0.0.1'], {})
  },
}

describe.each(Object.entries(WAYS))('over %s', (_name, open) => {
  const opened = async (): Promise<Shell> => {
    const shell = await open(node as LiveNode)
    await shell.screen.until((lines) => lines.some((line) => /[#$]$/.test(line)))
    return shell
  }
  const prompted = (lines: string[]): boolean => /[#$]$/.test(lines.findLast((line) => line !== '') ?? '')

  test('bash has jobs, sizes, colours and letters of every width', async () => {
    await using shell = await opened()
    const { screen } = shell
    const say = async (line: string, answer: string): Promise<void> => {
      screen.type(`clear; ${line}\r`)
      await screen.until((lines) => lines.includes(answer) && prompted(lines))
    }
    await say('stty size; tput colors', '256')
    expect(screen.lines()[0]).toBe('30 100')
    await say("echo '漢字 🎉 é'; echo -e 'a\\u0301bc'", 'a\u0301bc')
    expect(screen.lines()[0]).toBe('漢字 🎉 é')
    await say('mkdir -p /tmp/folder; ls -d --color /tmp/folder', '/tmp/folder')
    expect(screen.colorOf('/tmp/folder')).toBe(4)
    screen.type('clear; sleep 1000\r')
    await screen.until((lines) => lines[0] === '' && lines[1] === '')
    await box.exec('until pgrep -x sleep; do :; done')
    screen.type('\x1a')
    await screen.until((lines) => lines.some((line) => /^\[1\]\+ +Stopped +sleep 1000$/.test(line)))
    screen.type('jobs; fg\r')
    await screen.until((lines) => lines.at(lines.findLastIndex((line) => line !== '')) === 'sleep 1000')
    screen.type('\x03')
    await screen.until((lines) => lines.some((line) => line.startsWith('^C')) && prompted(lines))
    screen.type('echo "<$?>"\r')
    await screen.until((lines) => lines.includes('<130>') && prompted(lines))
    screen.resize(70, 20)
    // A client on a terminal of its own hears of the size by a signal, the keys may come before it.
    await say('until stty size | grep "20 70"; do :; done', '20 70')
    screen.type('exit 7\r')
    expect(await shell.ended).toBe(7)
  })

  test('vim edits, is suspended, and follows the size', async () => {
    await using shell = await opened()
    const { screen } = shell
    screen.type('clear; rm -f /tmp/text; vim.tiny /tmp/text\r')
    await screen.until((lines) => lines[1] === '~' && lines[29]?.includes('/tmp/text') === true)
    expect(screen.isTaken).toBe(true)
    screen.type('iHello, 漢字 🎉\rsecond line\x1b')
    await screen.until((lines) => lines[0] === 'Hello, 漢字 🎉' && lines[1] === 'second line')
    screen.resize(60, 15)
    await screen.until((lines) => lines.length === 15 && lines[13] === '~' && lines[0] === 'Hello, 漢字 🎉')
    screen.type('\x1a')
    await screen.until((lines) => lines.some((line) => line.includes('Stopped')) && prompted(lines))
    expect(screen.isTaken).toBe(false)
    screen.type('clear; fg\r')
    await screen.until((lines) => lines[0] === 'Hello, 漢字 🎉')
    screen.type(':wq\r')
    await screen.until(prompted)
    expect(await box.files.readText('/tmp/text')).toBe('Hello, 漢字 🎉\nsecond line\n')
  })

  test('less pages and searches; top draws and follows the size; both give the screen back', async () => {
    await using shell = await opened()
    const { screen } = shell
    screen.type('clear; seq 1000 | less\r')
    await screen.until((lines) => lines[0] === '1' && lines[28] === '29' && lines[29] === ':')
    screen.type(' ')
    await screen.until((lines) => lines[0] === '30')
    screen.type('/^777$\r')
    await screen.until((lines) => lines[0] === '777')
    screen.type('q')
    await screen.until(prompted)
    screen.type('clear; top\r')
    await screen.until((lines) => /^top - /.test(lines[0] ?? '') && lines.some((line) => / top$/.test(line)))
    screen.resize(80, 12)
    await screen.until((lines) => lines.length === 12 && lines.some((line) => /^ +PID USER .*COMMAND$/.test(line)))
    screen.type('q')
    await screen.until(prompted)
    expect(screen.isTaken).toBe(false)
  })
})

/** Makes a repository in /srv of two packages, `hello-a` and `hello-b`, and in /srv/evil others of the same names and sizes. */
const MAKE_REPOSITORY = `set -e
mkdir -p /srv/evil /tmp/p/DEBIAN /tmp/p/usr/bin; cd /srv
for name in hello-a hello-b; do
  for says in evil good; do
    about="Package: $name\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: x"
    printf "$about\n" > /tmp/p/DEBIAN/control
    printf "#!/bin/sh\necho $says\n" > /tmp/p/usr/bin/$name; chmod 755 /tmp/p/usr/bin/$name
    to=$name.deb; test $says = good || to=evil/$name.deb
    dpkg-deb -Znone -b /tmp/p $to
  done
  printf "$about\nFilename: ./$name.deb\nSize: $(stat -c %s $to)\nSHA256: $(sha256sum < $to | cut -d' ' -f1)\n\n" >> Packages
  rm /tmp/p/usr/bin/$name
done`

/** Runs a script beside an HTTP server of /srv, and says at last which packages were asked of it. */
const BESIDE_REPOSITORY = `
import http.server, os, subprocess, sys, threading
asked = []
class Handler(http.server.SimpleHTTPRequestHandler):
    def log_request(self, *_): asked.append(self.path)
    def log_message(self, *_): pass
os.chdir("/srv")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
done = subprocess.run(["sh", "-ec", sys.argv[1]])
print("asked for:", *[os.path.basename(path) for path in asked if path.endswith(".deb")])
sys.exit(done.returncode)
`
const INSTALL = `echo "deb [trusted=yes] http://127.0.0.1:8000/ ./" > /etc/apt/sources.list
apt-get -qq update >&2; apt-get install -y -qq hello-a hello-b >&2; hello-a; hello-b`

test('apt installs in a new instance what another downloaded, and not what another forged', async () => {
  await bramble.volumes.create({ name: 'repository', sizeMb: 64 })
  const spec = { image: 'debian', caches: ['apt' as const], volumes: [{ name: 'repository', path: '/srv' }] }
  const beside = async (instance: Instance, script: string): Promise<string> =>
    await instance.exec(['python3', '-c', BESIDE_REPOSITORY, script], { check: true }).text()
  {
    await using first = await bramble.instances.start(spec)
    await first.exec(MAKE_REPOSITORY, { check: true })
    const both = 'good\ngood\nasked for: hello-a.deb hello-b.deb\n'
    expect(await beside(first, INSTALL)).toBe(both)
    const forge = `cp /srv/evil/hello-b.deb /var/cache/apt/archives/hello-b_1_all.deb; apt-get remove -y -qq hello-b >&2`
    // So it is what apt believes.
    expect(await beside(first, `${forge}; ${INSTALL}`)).toBe('good\nevil\nasked for:\n')
    await first.stop()
  }
  await using second = await bramble.instances.start(spec)
  expect(await beside(second, INSTALL)).toBe('good\ngood\nasked for: hello-b.deb\n')
})
