import { existsSync, readFileSync } from 'node:fs'
import { copyFile } from 'node:fs/promises'
import { join } from 'node:path'
import { findCommand, runCommand } from './run-command.ts'
import type { Plan, Step } from './step.ts'

/** What pip installs, and the copy of it that says what was installed. */
const requirementsOf = (root: string): string => join(root, 'packages/blobs/src/testing/s3-requirements.txt')

/** Installs the S3 server that the tests of object stores start, in a virtual environment of its own below `.tools`. */
export const s3ServerStep = ({ root }: { readonly root: string }): Step => {
  const directory = join(root, '.tools/moto')
  const stamp = join(directory, 'requirements.txt')
  const requirements = requirementsOf(root)
  return {
    title: 'S3 server of the tests',
    plan: async (): Promise<Plan | undefined> => {
      if (existsSync(stamp) && readFileSync(stamp, 'utf8') === readFileSync(requirements, 'utf8')) return undefined
      const does = 'install moto from PyPI into .tools/moto'
      return {
        does,
        run: async (report, signal) => {
          const python = findCommand('python3')
          if (python === undefined) throw new Error('python3 is needed, and missing')
          const run = async (...argv: string[]): Promise<void> => {
            const { code, lines } = await runCommand(argv, { signal })
            if (code !== 0) throw new Error([`${does} failed:`, ...lines.slice(-10)].join('\n'))
          }
          report({ fraction: 0.1, note: 'making a virtual environment' })
          await run(python, '-m', 'venv', '--clear', directory)
          report({ fraction: 0.3, note: does })
          const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-input']
          await run(join(directory, 'bin/python'), ...pip, '--requirement', requirements)
          await copyFile(requirements, stamp)
        },
      }
    },
  }
}
