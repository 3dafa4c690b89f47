import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { aptInstall } from './apt.ts'
import { type HostPart, installCommand, missingParts } from './host-parts.ts'
import { findCommand, runCommand } from './run-command.ts'
import type { Plan, Step } from './step.ts'

/** Installs what the host lacks; on a host where it may not, says what to install. */
export const hostPackagesStep = (options: { test: boolean; isRoot: boolean }): Step => ({
  title: 'Host packages',
  plan: async () => {
    const missing = missingParts(options)
    if (missing.length === 0) return undefined
    const names = missing.map((part) => part.name).join(', ')
    const why = options.isRoot
      ? findCommand('apt-get') === undefined && 'this host has no apt-get'
      : 'only root may install packages'
    return {
      does: `install ${names}`,
      blocked: why ? [why, ...explainMissing(missing)] : undefined,
      run: async (report, signal) => {
        await aptInstall(missing, { report, signal })
        const still = missing.filter((part) => !part.found())
        if (still.length > 0)
          throw new Error(`apt-get succeeded, but still not found: ${still.map((part) => part.name).join(', ')}`)
      },
    }
  },
})

const explainMissing = (missing: readonly HostPart[]): string[] => [
  ...missing.map((part) => `missing: ${part.name} (${part.use})`),
  `Debian, Ubuntu:  ${installCommand('apt', missing)}`,
  `Fedora, RHEL:    ${installCommand('dnf', missing)}`,
  `Alpine:          ${installCommand('apk', missing)}`,
]

/** Builds one of the C programs of the checkout where its sources are newer than what was built. */
export const makeStep = (title: string, root: string, folder: string): Step => ({
  title,
  plan: async (): Promise<Plan | undefined> => {
    const path = join(root, folder)
    const does = `make -C ${folder}`
    const make = findCommand('make')
    if (make !== undefined && existsSync(join(path, 'build'))) {
      const { code } = await runCommand([make, '-q', '-C', path])
      if (code === 0) return undefined
    }
    return {
      does,
      run: async (report, signal) => {
        if (make === undefined || findCommand('cc') === undefined)
          throw new Error('make and a C compiler are needed, and missing')
        report({ note: does })
        const { code, lines } = await runCommand([make, '-C', path], { signal })
        if (code !== 0) throw new Error([`${does} failed:`, ...lines.slice(-20)].join('\n'))
      },
    }
  },
})
