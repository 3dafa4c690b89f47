import { fake, type Runtime } from '@bramble/runtime'
import { expect, test } from 'vitest'
import { chooseRuntime } from './choose-runtime.ts'

const runtime = async (name: string, isolation: 'container' | 'vm' | 'none'): Promise<Runtime> => {
  const probe = await fake({ capabilities: { isolation } })()
  if (!probe.available) throw new Error(probe.reason)
  return { ...probe.runtime, name }
}

test('the first that offers what is asked for; a reason where none does', async () => {
  const [oci, microvm] = [await runtime('oci', 'container'), await runtime('microvm', 'vm')]
  const choose = (wanted: Parameters<typeof chooseRuntime>[2]) =>
    chooseRuntime([oci, microvm], [{ name: 'docker', reason: 'no socket' }], wanted)
  expect(choose({ runtime: 'auto' })).toBe(oci)
  expect(choose({ runtime: 'microvm' })).toBe(microvm)
  expect(choose({ runtime: 'auto', isolation: 'vm' })).toBe(microvm)
  const refused = (words: string) =>
    expect.objectContaining({ code: 'unsupported', detail: expect.stringContaining(words) })
  expect(() => choose({ runtime: 'docker' })).toThrow(refused('no socket'))
  expect(() => choose({ runtime: 'oci', isolation: 'vm' })).toThrow(refused('`oci` with the isolation `vm`'))
  expect(() => choose({ runtime: 'auto', isolation: 'gvisor' })).toThrow(refused('gvisor'))
})

test('a composite chooses for itself', async () => {
  const auto = await runtime('auto', 'container')
  expect(chooseRuntime([auto], [], { runtime: 'docker', isolation: 'vm' })).toBe(auto)
})
