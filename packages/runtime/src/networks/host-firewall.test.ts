import { execFileSync } from 'node:child_process'
import { expect, onTestFinished, test } from 'vitest'
import { skip } from '../testing/subject.ts'
import { type Command, findProgram, runCommand } from './command.ts'
import { closeHostFirewall, openHostFirewall } from './host-firewall.ts'

const PREFIX = 'br0123456-'

test('where the host drops what it forwards, as Docker has it, the links of the node are excepted, and no others', async (context) => {
  if (process.getuid?.() !== 0) skip(context, 'not root')
  if (findProgram('iptables') === undefined) skip(context, 'no iptables')
  // A host of its own.
  const name = `bf${process.pid}`
  execFileSync('ip', ['netns', 'add', name])
  onTestFinished(() => void execFileSync('ip', ['netns', 'del', name]))
  const command: Command = (program, args, input) => runCommand('ip', ['netns', 'exec', name, program, ...args], input)
  expect(await openHostFirewall(command, PREFIX)).toEqual([])
  await command('iptables', ['-w', '-P', 'FORWARD', 'DROP'])
  await command('iptables', ['-w', '-A', 'FORWARD', '-i', 'docker0', '-j', 'ACCEPT'])
  const before = await command('iptables', ['-w', '-S'])
  for (const _ of ['once', 'twice']) expect(await openHostFirewall(command, PREFIX)).toEqual(['FORWARD'])
  const rules = (await command('iptables', ['-w', '-S', 'FORWARD'])).trim().split('\n')
  expect(rules).toHaveLength(4)
  expect(rules.slice(1, 3).every((rule) => rule.includes(`${PREFIX}+ `) && rule.endsWith('-j ACCEPT'))).toBe(true)
  await closeHostFirewall(command, PREFIX)
  expect(await command('iptables', ['-w', '-S'])).toBe(before)
})
