import { describe, expect, test } from 'vitest'
import { keepOutput } from './kept-output.ts'
import { encodeOutput, endingOfExit, resultHashOf, sha256 } from './outcome.ts'

const rusage = { userMicros: 0, systemMicros: 0, peakResidentBytes: 0 }
const kept = (data: string | Uint8Array, maxBytes = 100) => {
  const output = keepOutput(maxBytes)
  output.add(Buffer.from(data))
  return output
}

describe('ending', () => {
  test.each([
    [0, 0, { status: 'succeeded', exitCode: 0 }],
    [3, 0, { status: 'failed', exitCode: 3 }],
    [1, 2, { status: 'failed', exitCode: 1 }],
    [137, 0, { status: 'failed', exitCode: 137 }],
    [137, 1, { status: 'oom', exitCode: 137 }],
  ])('exit code %d with %d killed for memory', (code, oomKills, expected) => {
    expect(endingOfExit({ kind: 'exited', code, rusage }, oomKills)).toMatchObject(expected)
  })

  test.each([
    [9, 0, { status: 'failed', exitCode: 137, signal: 'SIGKILL' }],
    [9, 1, { status: 'oom', exitCode: 137, signal: 'SIGKILL' }],
    [11, 1, { status: 'failed', exitCode: 139, signal: 'SIGSEGV' }],
    [64, 0, { status: 'failed', exitCode: 192, signal: 'SIG64' }],
  ])('signal %d with %d killed for memory', (signal, oomKills, expected) => {
    expect(endingOfExit({ kind: 'signalled', signal, rusage }, oomKills)).toMatchObject(expected)
  })

  test.each([
    ['exec', 2, 127, /not found/],
    ['exec', 13, 126, /cannot be executed/],
    ['workdir', 2, 126, /working directory/],
    ['user', 2, 126, /user/],
  ] as const)('the step %s fails with errno %d', (step, errno, exitCode, message) => {
    const ending = endingOfExit({ kind: 'failed', step, errno, message: 'why' }, 0)
    expect(ending).toMatchObject({ status: 'failed', exitCode, message: expect.stringMatching(message) })
    expect(ending.message).toContain('why')
  })
})

describe('output', () => {
  test('is text where both streams are, else base64 for both', () => {
    expect(encodeOutput(kept('é'), kept(''))).toMatchObject({ stdout: 'é', stderr: '', encoding: 'utf8' })
    expect(encodeOutput(kept('a'), kept(Uint8Array.of(0xff)))).toMatchObject({
      stdout: 'YQ==',
      stderr: '/w==',
      encoding: 'base64',
    })
  })

  test('cut inside a character it stays text, and the digest is of what is shown', () => {
    const output = encodeOutput(kept('a€', 3), kept(''))
    expect(output).toMatchObject({ stdout: 'a', encoding: 'utf8', truncated: true, stdoutSha256: sha256('a') })
  })

  test('the result hash changes with each thing that came out', () => {
    const of = (exitCode: number, text: string, outputs = {}) =>
      resultHashOf({ status: 'failed', exitCode }, encodeOutput(kept(text), kept('')), outputs)
    const hashes = [of(1, 'a'), of(2, 'a'), of(1, 'b'), of(1, 'a', { '/x': { error: 'not_found' } })]
    expect(new Set(hashes).size).toBe(4)
    expect(of(1, 'a')).toBe(hashes[0])
  })
})
