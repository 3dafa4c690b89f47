import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const run = (command: string, args: readonly string[]): Promise<void> =>
  new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    let complaint = ''
    child.stderr.on('data', (chunk) => {
      complaint += chunk
    })
    child.once('error', reject)
    child.once('exit', (code) =>
      code === 0 ? resolve() : reject(new Error(`${command} ${args.join(' ')}: ${code} ${complaint}`)),
    )
  })

/** Makes the node's base image known to a Docker engine, so that both run the same files. */
export const loadIntoDocker = async (rootfs: string, socket: string): Promise<string> => {
  const tag = 'bramble-bench:base'
  await run('sh', ['-c', `tar -C "$1" -c . | docker -H "unix://$2" import - ${tag} > /dev/null`, 'sh', rootfs, socket])
  return tag
}

/** The `docker` program, as a user would type it. */
export const runDocker = (socket: string, args: readonly string[]): Promise<void> =>
  run('docker', ['-H', `unix://${socket}`, ...args])

/** `docker run --rm --network none IMAGE true`. */
export const dockerRun = (image: string, socket: string): Promise<void> =>
  runDocker(socket, ['run', '--rm', '--network', 'none', image, 'true'])

export interface BareCrun {
  /** Mounts an overlay over the image and runs `true` in it with crun: two spawns from Node. */
  once(): Promise<void>
  close(): void
}

/**
 * The least that anyone pays who mounts an overlay and starts crun from Node: no user namespace, no seccomp, no
 * agent. Must run in a mount namespace where crun works (`unshare -m`, cgroup2 not mounted beside version 1).
 */
export const bareCrun = (rootfs: string): BareCrun => {
  const base = mkdtempSync(join(tmpdir(), 'bramble-bare-'))
  let count = 0
  return {
    once: async () => {
      const id = `bare${process.pid}x${count++}`
      const bundle = join(base, id)
      for (const name of ['upper', 'work', 'rootfs']) mkdirSync(join(bundle, name), { recursive: true })
      writeFileSync(
        join(bundle, 'config.json'),
        JSON.stringify({
          ociVersion: '1.0.2',
          process: { user: { uid: 0, gid: 0 }, args: ['/bin/true'], env: ['PATH=/bin'], cwd: '/' },
          root: { path: 'rootfs' },
          mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }],
          linux: {
            cgroupsPath: `/bramble-bare/${id}`,
            resources: {
              memory: { limit: 512 * 1024 * 1024 },
              cpu: { quota: 100_000, period: 100_000 },
              pids: { limit: 256 },
            },
            namespaces: ['pid', 'mount', 'ipc', 'uts', 'network'].map((type) => ({ type })),
          },
        }),
      )
      const options = `lowerdir=${rootfs},upperdir=${bundle}/upper,workdir=${bundle}/work`
      await run('mount', ['-t', 'overlay', 'overlay', '-o', options, join(bundle, 'rootfs')])
      await run('crun', ['--root', join(base, 'state'), 'run', '--bundle', bundle, id])
      // Removal is not part of what is timed on either side.
      void run('umount', [join(bundle, 'rootfs')]).catch(() => {})
    },
    close: () => rmSync(base, { recursive: true, force: true }),
  }
}
