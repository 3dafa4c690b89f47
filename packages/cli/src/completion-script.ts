/** A command with its options and sub-commands, as completion needs them. */
export interface CommandTree {
  readonly name: string
  readonly summary: string
  readonly options: readonly {
    readonly flags: readonly string[]
    readonly summary: string
    readonly takesValue: boolean
  }[]
  readonly commands: readonly CommandTree[]
}

export const SHELLS = ['bash', 'zsh', 'fish'] as const
export type Shell = (typeof SHELLS)[number]

export const completionScript = (shell: Shell, root: CommandTree): string => {
  switch (shell) {
    case 'bash':
      return bash(root)
    case 'zsh':
      return zsh(root)
    case 'fish':
      return fish(root)
    default:
      return shell satisfies never
  }
}

/** Every command that has words of its own, with the words that lead to it. */
const levels = (tree: CommandTree, path: readonly string[] = []): { path: readonly string[]; tree: CommandTree }[] => [
  { path, tree },
  ...tree.commands.flatMap((child) => levels(child, [...path, child.name])),
]

const flagsOf = (tree: CommandTree): string[] => tree.options.flatMap((option) => option.flags)

const bash = (root: CommandTree): string => {
  const cases = levels(root).map(({ path, tree }) => {
    const words = [...tree.commands.map((child) => child.name), ...flagsOf(tree), '--help']
    return `    '${path.join(' ')}') words='${words.join(' ')}' ;;`
  })
  return `# Completion of bramble for bash: eval "$(bramble completion bash)"
_bramble() {
  local current=\${COMP_WORDS[COMP_CWORD]} path='' words='' at
  for ((at = 1; at < COMP_CWORD; at++)); do
    case \${COMP_WORDS[at]} in
      --) COMPREPLY=($(compgen -f -- "$current")); return ;;
      -*) ;;
      *) [[ $path == *' '* ]] || path="\${path:+$path }\${COMP_WORDS[at]}" ;;
    esac
  done
  case $path in
${cases.join('\n')}
    *' '*)
      case \${path%% *} in
${root.commands.map((child) => `        ${child.name}) words='${[...flagsOf(child), '--help'].join(' ')}' ;;`).join('\n')}
      esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  [[ $current == -* || \${#COMPREPLY[@]} -gt 0 ]] || COMPREPLY=($(compgen -f -- "$current"))
}
complete -o filenames -F _bramble bramble ./bramble
`
}

/** Single quotes of a shell, and the characters that a zsh description reads as syntax. */
const quote = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`
const described = (text: string): string => text.replace(/[[\]:]/g, '\\$&')

const zsh = (root: CommandTree): string => {
  const functionOf = (path: readonly string[]): string => ['_bramble', ...path].join('_')
  const functions = levels(root).map(({ path, tree }) => {
    const specs = [
      ...tree.options.flatMap((option) =>
        option.flags.map((flag) =>
          quote(`*${flag}[${described(option.summary)}]${option.takesValue ? ':value:_files' : ''}`),
        ),
      ),
      quote('--help[show help]'),
    ]
    if (tree.commands.length === 0)
      return `${functionOf(path)}() {\n  _arguments -s ${specs.join(' ')} '*:word:_files'\n}\n`
    const names = tree.commands.map((child) => quote(`${child.name}:${described(child.summary)}`)).join(' ')
    const branches = tree.commands.map((child) => `      ${child.name}) ${functionOf([...path, child.name])} ;;`)
    return `${functionOf(path)}() {
  local state line
  _arguments -C ${specs.join(' ')} '1:command:->command' '*::word:->word'
  case $state in
    command)
      local -a commands=(${names})
      _describe command commands ;;
    word)
      case $line[1] in
${branches.join('\n')}
      esac ;;
  esac
}
`
  })
  return `#compdef bramble\n# Completion of bramble for zsh: eval "$(bramble completion zsh)"\n${functions.join('')}compdef _bramble bramble\n`
}

const fish = (root: CommandTree): string => {
  const lines = ['# Completion of bramble for fish: bramble completion fish | source']
  for (const { path, tree } of levels(root)) {
    const [first, second] = path
    const names = tree.commands.map((child) => child.name)
    const here =
      first === undefined
        ? '__fish_use_subcommand'
        : second === undefined
          ? `__fish_seen_subcommand_from ${first}`
          : `__fish_seen_subcommand_from ${first}; and __fish_seen_subcommand_from ${second}`
    const notYet =
      names.length > 0 && first !== undefined ? `; and not __fish_seen_subcommand_from ${names.join(' ')}` : ''
    for (const child of tree.commands)
      lines.push(`complete -c bramble -f -n ${quote(here + notYet)} -a ${child.name} -d ${quote(child.summary)}`)
    for (const option of tree.options) {
      const flags = option.flags.map((flag) => (flag.startsWith('--') ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`))
      const value = option.takesValue ? ' -r' : ''
      lines.push(`complete -c bramble -n ${quote(here)} ${flags.join(' ')}${value} -d ${quote(option.summary)}`)
    }
  }
  return `${lines.join('\n')}\n`
}
