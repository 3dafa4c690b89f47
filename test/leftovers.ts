import { readdirSync, readFileSync } from 'node:fs'
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
