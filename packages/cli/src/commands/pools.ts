import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connect } from '../connection.ts'
import { poolColumns } from '../pool-columns.ts'
import { printList } from '../terminal.ts'

export default {
  name: 'pools',
  summary: 'List the warm pools',
  configure(command) {
    command.option('--json', 'JSON, which is also what a pipe gets')
    addConnectionOptions(command).action(async (options: ConnectionOptions & { json?: boolean }) => {
      const bramble = await connect(options)
      printList(await bramble.pools(), poolColumns, { json: options.json === true, empty: 'no pools' })
    })
  },
} satisfies CliCommand
