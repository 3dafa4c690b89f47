import { execFileSync, spawnSync } from 'node:child_process'
import { Command } from 'commander'
import { describe, expect, test } from 'vitest'
import { runCli } from '../test/spawn-cli.ts'
import { COMMANDS, type CommandName, loadCommand } from './command-table.ts'

const NAMES = Object.keys(COMMANDS) as CommandName[]

test('the help names every command, and loads none', async () => {
  const { code, stdout } = await runCli([], {})
  expect(code).toBe(0)
  for (const name of NAMES) expect(stdout).toContain(`  ${name} `)
  expect(await runCli(['--help'], {})).toMatchObject({ code: 0, stdout })
  expect(await runCli(['help'], {})).toMatchObject({ code: 0, stdout })
})

test.each(NAMES)('%s is what the table says, and can be configured', async (name) => {
  const command = await loadCommand(name)
  expect(command).toMatchObject({ name, summary: COMMANDS[name].summary })
  command.configure(new Command(name))
})

test('the help of a command has the examples; --version is one line', async () => {
  expect((await runCli(['run', '--help'], {})).stdout).toContain('bramble run -- echo hello')
  expect((await runCli(['help', 'run'], {})).stdout).toContain('bramble run -- echo hello')
  expect((await runCli(['--version'], {})).stdout).toMatch(/^\d+\.\d+\.\d+\n$/)
})

test('what is not a command, or not an option, is one line on stderr and 125', async () => {
  const unknown = await runCli(['rum'], {})
  expect(unknown).toMatchObject({ code: 125, stdout: '' })
  expect(unknown.stderr).toContain("unknown command 'rum'")
  expect((await runCli(['ps', '--bad'], {})).stderr).toContain("unknown option '--bad'")
})

test('a suite of benchmarks that is not there is refused with those that are', async () => {
  const end = await runCli(['bench', 'nope'], {})
  expect(end).toMatchObject({ code: 125, stdout: '' })
  expect(end.stderr).toContain('no suite "nope"')
  expect(end.stderr).toContain('run')
})

describe('completion', () => {
  const shell = (name: string): boolean => spawnSync(name, ['-c', 'true']).status === 0

  test('bash completes commands, sub-commands and options', async () => {
    const { stdout } = await runCli(['completion', 'bash'], {})
    const complete = (...words: string[]): string[] => {
      const script = `${stdout}
COMP_WORDS=(bramble ${words.map((word) => `'${word}'`).join(' ')}); COMP_CWORD=${words.length}
_bramble; printf '%s\\n' "\${COMPREPLY[@]}"`
      return execFileSync('bash', ['-c', script], { encoding: 'utf8' }).trim().split('\n')
    }
    expect(complete('ru')).toEqual(['run'])
    expect(complete('images', 'b')).toEqual(['build'])
    expect(complete('run', '--im')).toEqual(['--image'])
    expect(complete('keys', 'add', '--ten')).toEqual(['--tenant'])
    expect(complete('up', '--background')).not.toContain('--background')
  })

  test.each(['zsh', 'fish'])('%s can read its script, where it is installed', async (name) => {
    const { code, stdout } = await runCli(['completion', name], {})
    expect(code).toBe(0)
    for (const command of NAMES) expect(stdout).toContain(command)
    if (shell(name)) expect(spawnSync(name, ['-n'], { input: stdout }).status).toBe(0)
  })

  test('another shell is refused', async () => {
    expect((await runCli(['completion', 'tcsh'], {})).code).toBe(125)
  })
})
