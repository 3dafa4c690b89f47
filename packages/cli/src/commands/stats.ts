import type { CliCommand } from '../command.ts'
import { addConnectionOptions, type ConnectionOptions, connectNetwork } from '../connection.ts'
import { ofNetwork } from '../network/network-call.ts'
import { addShowOptions, type ShowOptions, show } from '../network/show.ts'
import { statsLines } from '../network/stats-view.ts'

export default {
  name: 'stats',
  summary: 'Show a network as a whole: jobs, nodes, what is verified a second, credits',
  configure(command) {
    addConnectionOptions(addShowOptions(command), 'coordinator').action(
      async (options: ConnectionOptions & ShowOptions) => {
        const bramble = await connectNetwork(options)
        await show(options, (signal) => ofNetwork(bramble.network.stats({ signal })), statsLines)
      },
    )
  },
} satisfies CliCommand
