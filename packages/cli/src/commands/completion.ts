import { Command } from 'commander'
import type { CliCommand } from '../command.ts'
import { COMMANDS, type CommandName, loadCommand } from '../command-table.ts'
import { type CommandTree, completionScript, SHELLS, type Shell } from '../completion-script.ts'
import { EXIT, ExitError } from '../exit.ts'

const isShell = (text: string): text is Shell => (SHELLS as readonly string[]).includes(text)

export default {
  name: 'completion',
  summary: 'Write the completion script of a shell',
  configure(command) {
    command
      .argument('<shell>', SHELLS.join(', '))
      .addHelpText(
        'after',
        '\nbash: eval "$(bramble completion bash)"\nzsh:  eval "$(bramble completion zsh)"\nfish: bramble completion fish | source',
      )
      .action(async (shell: string) => {
        if (!isShell(shell))
          throw new ExitError(
            EXIT.failure,
            `no completion for ${JSON.stringify(shell)}`,
            `There are: ${SHELLS.join(', ')}.`,
          )
        const root = new Command('bramble').enablePositionalOptions()
        for (const name of Object.keys(COMMANDS) as CommandName[]) {
          const child = root.command(name).description(COMMANDS[name].summary)
          const loaded = await loadCommand(name)
          loaded.configure(child)
        }
        process.stdout.write(completionScript(shell, treeOf(root)))
      })
  },
} satisfies CliCommand

const treeOf = (command: Command): CommandTree => ({
  name: command.name(),
  summary: command.description(),
  options: command.options
    .filter((option) => !option.hidden)
    .map((option) => ({
      flags: [option.short, option.long].filter((flag) => flag !== undefined && flag !== null),
      summary: option.description,
      takesValue: option.required || option.optional,
    })),
  commands: command.commands.map(treeOf),
})
