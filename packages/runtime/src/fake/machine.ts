import { FakeFileSystem } from './file-system.ts'
import { type FakeClock, type Machine, nowNsOf } from './process.ts'
import { PROGRAMS } from './programs.ts'
import { applet } from './transfer.ts'

const FILES: Readonly<Record<string, string>> = {
  '/etc/passwd':
    'root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n',
  '/etc/group': 'root:x:0:\nstaff:x:50:app\napp:x:1000:\nnogroup:x:65534:\n',
  '/etc/hostname': 'image\n',
  '/etc/not-executable': '#!/bin/sh\nexit 0\n',
  '/home/app/hello.txt': 'hello from the image\n',
}
const DIRECTORIES = ['/bin', '/dev/shm', '/etc', '/home/app', '/root', '/tmp', '/usr/bin', '/var/tmp', '/.bramble']
const DEVICES = { '/dev/null': 'null', '/dev/zero': 'zero', '/dev/urandom': 'random', '/dev/full': 'full' } as const
const AGENT = '/.bramble/agent'

export interface MachineOptions {
  readonly hostname: string
  readonly maxDiskBytes: number
  /** Files that an earlier machine left; default those of the test image. */
  readonly files?: FakeFileSystem | undefined
  readonly clock: FakeClock
  readonly die: (detail: string) => void
  readonly emit: (data: Buffer) => Promise<void>
}

/** Those of the test image, whatever the image says: the fake reads nothing of its host. */
export const imageFiles = (maxBytes: number, clock: FakeClock): FakeFileSystem => {
  let made = false
  // Files of an image have the same times everywhere.
  const files = new FakeFileSystem(maxBytes, () => (made ? nowNsOf(clock) : 0n))
  const root = { uid: 0, gid: 0 }
  for (const path of DIRECTORIES) files.makeDirectories(path)
  for (const path of ['/tmp', '/var/tmp']) files.get(path).mode = 0o1777
  files.get('/root').mode = 0o700
  const file = (
    path: string,
    mode: number,
    extra: { program?: string; device?: (typeof DEVICES)[keyof typeof DEVICES] },
  ) => files.make(path, { kind: 'file', mode, ...root, chunks: [], sizeBytes: 0, ...extra })
  for (const name of PROGRAMS.keys()) file(`/bin/${name}`, 0o755, { program: name })
  file(AGENT, 0o755, { program: AGENT })
  for (const [path, device] of Object.entries(DEVICES)) file(path, 0o666, { device })
  for (const [path, text] of Object.entries(FILES))
    files.append(files.openForWrite(path, { uid: 0, gids: [0] }, true), Buffer.from(text))
  for (const path of ['/home/app', '/home/app/hello.txt']) Object.assign(files.get(path), { uid: 1000, gid: 1000 })
  made = true
  return files
}

export const makeMachine = (options: MachineOptions): Machine => {
  const files = options.files ?? imageFiles(options.maxDiskBytes, options.clock)
  files.maxBytes = options.maxDiskBytes
  return {
    files,
    hostname: options.hostname,
    clock: options.clock,
    programs: new Map([...PROGRAMS, [AGENT, applet]]),
    processes: new Map(),
    nextPid: 2,
    oomKills: 0,
    die: options.die,
    emit: options.emit,
  }
}
