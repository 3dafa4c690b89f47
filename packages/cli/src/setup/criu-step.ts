import { existsSync } from 'node:fs'
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { criuPrefix, findCriu } from '@bramble/runtime'
import { findCommand, runCommand } from './run-command.ts'
import type { Plan, Step } from './step.ts'

/** The first release of Debian whose CRIU (4.2) knows kernels since 6.16. */
const RELEASE = 'forky'
const DEFAULT_MIRROR = 'http://deb.debian.org/debian/'
/** The keys that Debian signs its releases with (package debian-archive-keyring). */
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'

/** Where this host gets Debian's own packages from, where it is a Debian. */
const mirror = async (signal: AbortSignal): Promise<string> => {
  const format = '$(REPO_URI) $(ORIGIN) $(COMPONENT)'
  const { code, lines } = await runCommand(['apt-get', 'indextargets', '--format', format, 'Identifier: Packages'], {
    signal,
  })
  const found = code === 0 ? lines.find((line) => /\/debian\/? Debian main$/.test(line)) : undefined
  return found?.split(' ')[0] ?? DEFAULT_MIRROR
}

/**
 * Unpacks CRIU from a newer Debian, with its libraries, into a folder of its own below `.tools`: nothing of the host is
 * changed. apt verifies what it downloads. Where neither the host's own CRIU nor this works there is none, and no memory of
 * sandboxes is saved; `bramble doctor` says so.
 */
export const criuStep = (): Step => ({
  title: 'CRIU',
  plan: async (): Promise<Plan | undefined> => {
    const prefix = criuPrefix()
    if (prefix === undefined || findCommand('apt-get') === undefined || !existsSync(KEYRING)) return undefined
    if ('command' in (await findCriu()) || existsSync(prefix.directory)) return undefined
    const does = `unpack CRIU of Debian ${RELEASE} into .tools/criu`
    return {
      does,
      run: async (report, signal) => {
        const { directory, debianArchitecture } = prefix
        const work = `${directory}.new`
        const run = async (...argv: string[]): Promise<void> => {
          const { code, lines } = await runCommand(argv, { signal, env: { LC_ALL: 'C.UTF-8' } })
          if (code !== 0) throw new Error([`${does} failed:`, ...lines.slice(-10)].join('\n'))
        }
        await rm(work, { recursive: true, force: true })
        const apt = join(work, 'apt')
        for (const folder of ['lists/partial', 'cache/archives/partial', 'root'])
          await mkdir(join(apt, folder), { recursive: true })
        const list = join(apt, 'sources.list')
        await writeFile(list, `deb [signed-by=${KEYRING}] ${await mirror(signal)} ${RELEASE} main\n`)
        const options = [
          `Dir::Etc::SourceList=${list}`,
          'Dir::Etc::SourceParts=/nonexistent',
          `Dir::State::Lists=${join(apt, 'lists')}`,
          'Dir::State::Status=/dev/null',
          `Dir::Cache=${join(apt, 'cache')}`,
          `APT::Architecture=${debianArchitecture}`,
          'APT::Sandbox::User=root',
        ].flatMap((option) => ['-o', option])
        report({ fraction: 0.1, note: `reading the package lists of ${RELEASE}` })
        await run('apt-get', ...options, '-q', 'update')
        report({ fraction: 0.5, note: 'downloading' })
        await run('apt-get', ...options, '-q', '-y', '--no-install-recommends', '--download-only', 'install', 'criu')
        const archives = join(apt, 'cache/archives')
        report({ fraction: 0.8, note: 'unpacking' })
        for (const file of (await readdir(archives)).filter((name) => name.endsWith('.deb')))
          await run('dpkg-deb', '-x', join(archives, file), join(apt, 'root'))
        await mkdir(dirname(directory), { recursive: true })
        await rename(join(apt, 'root'), directory)
        await rm(work, { recursive: true, force: true })
        const found = await findCriu()
        if ('command' in found) return
        await rm(directory, { recursive: true, force: true })
        throw new Error(`it does not work here: ${found.reason}`)
      },
    }
  },
})
