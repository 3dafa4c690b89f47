import { Command, CommanderError } from 'commander'
import { COMMANDS, isCommandName, loadCommand } from './command-table.ts'
import { EXIT } from './exit.ts'
import { reportError } from './report-error.ts'
import { version } from './version.ts'

/** The program without commands: how it speaks and how it fails. */
const newProgram = (): Command =>
  new Command('bramble')
    .description("Runs other people's code: each command in a fresh sandbox of its own, in milliseconds.")
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      outputError: (text, write) => write(`bramble: ${text.replace(/^error: /, '')}`),
    })
    .showHelpAfterError('  `bramble --help` lists the commands.')

/**
 * Only the command that is asked for is loaded: `bramble run` must not wait for what a node or a set-up needs. Without
 * one, summaries stand for all of them.
 */
const main = async (args: string[]): Promise<void> => {
  const [name = ''] = args
  const program = newProgram()
  if (name === '-V' || name === '--version') {
    console.log(version())
    return
  }
  if (isCommandName(name)) {
    const command = program.command(name).description(COMMANDS[name].summary)
    command.showHelpAfterError(`  \`bramble ${name} --help\` shows what it takes.`)
    ;(await loadCommand(name)).configure(command)
  } else {
    for (const [known, { summary }] of Object.entries(COMMANDS)) program.command(known).description(summary)
    program.option('-V, --version', 'show the version')
    program.addHelpText('after', '\n`bramble <command> --help` shows a command. Start with `bramble up`.')
    if (name === '' || (name === 'help' && args.length === 1)) return program.outputHelp()
    if (name === 'help' && isCommandName(args[1] ?? '')) return main([args[1] ?? '', '--help'])
  }
  await program.parseAsync(args, { from: 'user' })
}

try {
  await main(process.argv.slice(2))
} catch (error) {
  // Commander has said what was wrong; its help and version end this way too.
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.failure
  else process.exitCode = reportError(error)
}
