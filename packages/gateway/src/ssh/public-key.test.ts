import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it, onTestFinished } from 'vitest'
import { parsePublicKey } from './public-key.ts'

const run = promisify(execFile)

const made = async (...args: string[]): Promise<{ line: string; path: string; fingerprint: string }> => {
  const folder = await mkdtemp(join(tmpdir(), 'bramble-key-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  const path = join(folder, 'key')
  await run('ssh-keygen', ['-q', '-N', '', '-f', path, ...args])
  const { stdout } = await run('ssh-keygen', ['-l', '-f', `${path}.pub`])
  return { line: await readFile(`${path}.pub`, 'utf8'), path, fingerprint: stdout.split(' ')[1] ?? '' }
}

it.each([['ed25519'], ['ecdsa', '-b', '256'], ['ecdsa', '-b', '521'], ['rsa', '-b', '2048']])(
  'a key that ssh-keygen made has the fingerprint that it prints: %s %s %s',
  async (...args) => {
    const { line, fingerprint } = await made('-t', ...args)
    const key = parsePublicKey(line)
    expect(key.fingerprint).toBe(fingerprint)
    expect(parsePublicKey(`  ${key.type} ${key.blob}  `)).toEqual(key)
  },
)

it('what is no key of a type that can be trusted is refused, with the reason', async () => {
  const { line, path } = await made('-t', 'ed25519')
  const { line: weak } = await made('-t', 'rsa', '-b', '1024')
  const blob = line.split(' ')[1] ?? ''
  for (const [text, why] of [
    ['', /not `<type> <base64>`/],
    ['ssh-ed25519', /not `<type> <base64>`/],
    [await readFile(path, 'utf8'), /private key/],
    [`command="id" ${line}`, /not `<type> <base64>`|not taken/],
    [`ssh-rsa ${blob}`, /not a key of that type/],
    [`ssh-ed25519 ${blob.slice(0, 40)}`, /not a key of that type/],
    [`ssh-ed25519 ${blob}\nssh-ed25519 ${blob}`, /not `<type> <base64>`/],
    [`ssh-dss ${blob}`, /not taken/],
    [`sk-ssh-ed25519@openssh.com ${blob}`, /not taken/],
    [weak, /fewer than 2048 bits/],
  ] as const)
    expect(() => parsePublicKey(text)).toThrow(why)
})
