import type { CliCommand } from '../command.ts'
import { addSnapshotCommands } from '../snapshots/snapshot-commands.ts'

export default {
  name: 'snapshot',
  summary: 'Take a snapshot of an instance; diff, restore, export, import and remove them',
  configure(command) {
    command.addHelpText('after', EXAMPLES)
    addSnapshotCommands(command, 'take')
  },
} satisfies CliCommand

const EXAMPLES =
  '\nExamples:\n  bramble snapshot box before\n  bramble exec box -- apt-get install -y php\n  bramble snapshot box after\n  bramble snapshot diff before after\n  bramble snapshot restore before --name box2\n  bramble snapshot export after after.bramble'
