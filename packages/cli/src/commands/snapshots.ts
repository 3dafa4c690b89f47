import type { CliCommand } from '../command.ts'
import { addSnapshotCommands } from '../snapshots/snapshot-commands.ts'

export default {
  name: 'snapshots',
  summary: 'List snapshots; the same commands as `snapshot`',
  configure(command) {
    addSnapshotCommands(command, 'ls')
  },
} satisfies CliCommand
