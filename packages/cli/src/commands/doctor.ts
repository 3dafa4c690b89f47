import { resolve } from 'node:path'
import type { CliCommand } from '../command.ts'
import { dataDirectory } from '../data-directory.ts'
import { brambleParts, RUNTIMES } from '../doctor/bramble.ts'
import { hostParts } from '../doctor/host.ts'
import { examineAll, type PartReport } from '../doctor/part.ts'
import { toolParts } from '../doctor/tools.ts'
import { interrupt } from '../node/interrupt.ts'
import { readNodeConfig, SSH_PORT } from '../node/node-config.ts'
import { runningNode } from '../node/node-file.ts'
import { hasColor, paint as painted } from '../terminal.ts'

export default {
  name: 'doctor',
  summary: 'Try every part of this host, and say what is missing and what to do',
  configure(command) {
    command
      .option('--test', 'also what only the tests need', false)
      .option('--data-dir <path>', 'where the node keeps its data')
      .option('--json', 'answer in JSON', false)
      .action(async (options: { test: boolean; dataDir?: string; json: boolean }) => {
        using interrupted = interrupt()
        const directory = options.dataDir === undefined ? dataDirectory() : resolve(options.dataDir)
        const { host, port, sshPort = SSH_PORT, objectStoreUrl } = readNodeConfig({ dataDir: directory }, directory)
        const running = runningNode(directory)
        const reports = await examineAll(
          [
            ...hostParts({ dataDirectory: directory, address: { host, port }, sshPort, running }),
            ...toolParts(options),
            ...brambleParts({ dataDirectory: directory, nodeRuns: running !== undefined, objectStoreUrl }),
          ],
          interrupted.signal,
        )
        const isolates = reports.some(
          ({ group, state }) => group === RUNTIMES && (state === 'works' || state === 'limited'),
        )
        if (options.json) console.log(JSON.stringify({ isolates, parts: reports }, null, 2))
        else for (const line of table(reports, isolates)) console.log(line)
        if (!isolates) process.exitCode = 1
      })
  },
} satisfies CliCommand

const MARKS = {
  works: ['green', '✓'],
  limited: ['yellow', '!'],
  missing: ['red', '✗'],
  fails: ['red', '✗'],
} as const satisfies Record<PartReport['state'], readonly [string, string]>

const table = (reports: readonly PartReport[], isolates: boolean): string[] => {
  const color = hasColor(process.stdout)
  const paint = (style: Parameters<typeof painted>[0], text: string): string => painted(style, text, color)
  const nameWidth = Math.max(...reports.map(({ name }) => name.length))
  const versionWidth = Math.max(...reports.map(({ version = '' }) => version.length))
  const lines: string[] = []
  let group = ''
  for (const report of reports) {
    if (report.group !== group) lines.push('', paint('bold', report.group))
    group = report.group
    const [style, mark] = MARKS[report.state]
    const found = report.state === 'missing' ? `missing: ${report.detail}` : report.detail
    lines.push(
      `  ${paint(style, mark)} ${report.name.padEnd(nameWidth)}  ${(report.version ?? '').padEnd(versionWidth)}  ${found}`,
    )
    if (report.hint !== undefined)
      lines.push(`    ${' '.repeat(nameWidth + versionWidth + 4)}${paint('dim', report.hint)}`)
  }
  const verdict = isolates
    ? paint('green', 'This host runs sandboxes.')
    : paint(
        'red',
        'This host can isolate nothing yet: see the lines with ✗ above. `bramble setup` installs what is missing.',
      )
  return [...lines, '', verdict]
}
