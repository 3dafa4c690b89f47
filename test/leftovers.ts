import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { findCgroups } from '@bramble/runtime'
import { launcherOf } from '@bramble/runtime/testing'

const directoriesOf = (path: string): string[] => {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name)
  } catch {
    return []
  }
}

/** The cgroups of sandboxes on this host, of one node's directory or of all: `<node>/<sandbox>`. */
export const sandboxCgroups = (): string[] => {
  const found = new Set<string>()
  for (const hierarchy of findCgroups()?.hierarchies ?? [])
    for (const node of directoriesOf(`${hierarchy}/bramble`))
      for (const box of directoriesOf(`${hierarchy}/bramble/${node}`)) found.add(`${node}/${box}`)
  return [...found]
}

export interface HostProcess {
  pid: number
  parent: number
  command: string
}

/** Every process of the host that has a command line. */
export const hostProcesses = (): HostProcess[] =>
  readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return []
    try {
      const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
      const parent = Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${name}/status`, 'utf8'))?.[1])
      return command === '' ? [] : [{ pid: Number(name), parent, command }]
    } catch {
      return []
    }
  })

/** The cgroups of the sandboxes of one node. */
export const cgroupsOf = (dataDirectory: string): string[] => {
  const pid = launcherOf(dataDirectory)
  const launcher = hostProcesses().find((process) => process.pid === pid)
  const node = /--cgroup \/bramble\/(\S+)/.exec(launcher?.command ?? '')?.[1]
  return sandboxCgroups().filter((path) => path.startsWith(`${node}/`))
}

/** Resolves when `holds` does. The kernel tells nobody when a cgroup or a process of another is gone, so it is asked. */
export const until = async (
  what: string,
  holds: () => boolean | Promise<boolean>,
  timeoutMs = 30_000,
): Promise<void> => {
  const deadline = Date.now() + timeoutMs
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`${what} did not come about in ${timeoutMs} ms`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

const run = promisify(execFile)

/** What the runtime calls its things on this host: cgroups, the table of the firewall, and with `br` before it links. */
const nodeNameOf = (dataDirectory: string): string =>
  createHash('sha256')
    .update(join(realpathSync(dataDirectory), 'oci'))
    .digest('hex')
    .slice(0, 12)

/** The descriptors that a process holds, by what they lead to. */
export const descriptorsOf = (pid: number): string[] =>
  readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/${pid}/fd/${fd}`)]
    } catch {
      return []
    }
  })

/** The host's ends of the networks of a node's sandboxes, those that wait for one included. */
const linksOf = (name: string): string[] =>
  readdirSync('/sys/class/net').filter((link) => link.startsWith(`br${name.slice(0, 7)}-`))

/** The node's table of the firewall, as nft(8) lists it; '' where there is none. */
export const firewallOf = (dataDirectory: string): Promise<string> =>
  run('nft', ['list', 'table', 'inet', `bramble_${nodeNameOf(dataDirectory)}`]).then(
    ({ stdout }) => stdout,
    () => '',
  )

const has = (path: string, text: string): boolean => {
  try {
    return readFileSync(path, 'utf8').includes(text)
  } catch {
    return false
  }
}

/**
 * What the host holds for a node: processes, cgroups, mounts, loop devices, links, its firewall. Nothing, when the node has
 * ended and had no instances.
 */
export const leftoversOf = async (dataDirectory: string): Promise<string[]> => {
  const name = nodeNameOf(dataDirectory)
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n')
  const table = await firewallOf(dataDirectory)
  return [
    ...hostProcesses()
      .filter(({ command }) => command.includes(dataDirectory))
      .map(({ pid, command }) => `process ${pid}: ${command}`),
    ...sandboxCgroups()
      .filter((path) => path.startsWith(`${name}/`))
      .map((path) => `cgroup ${path}`),
    ...mounts.filter((line) => line.includes(dataDirectory)).map((line) => `mount ${line}`),
    ...readdirSync('/sys/block')
      .filter((device) => has(`/sys/block/${device}/loop/backing_file`, dataDirectory))
      .map((device) => `loop device ${device}`),
    ...linksOf(name).map((link) => `link ${link}`),
    ...(table === '' ? [] : [`table ${table}`]),
  ]
}
