import { type ExecutionSpecInput, executionSpecSchema } from '@bramble/protocol'
import type { LocalImage } from '@bramble/runtime'
import { describe, expect, test } from 'vitest'
import { execRequestOf, placeOf, stdinBytes } from './command.ts'

const image = (config: Partial<LocalImage['config']> = {}): LocalImage => ({
  digest: `sha256:${'0'.repeat(64)}`,
  names: ['base'],
  source: 'test',
  sizeBytes: 0,
  createdAt: '2026-01-01T00:00:00.000Z',
  config: { env: {}, workdir: '', user: '', ...config },
  rootfs: '/nonexistent',
})
const request = (input: ExecutionSpecInput, of = image()) => {
  const spec = executionSpecSchema.parse(input)
  return execRequestOf(spec, of, placeOf(spec, of))
}

describe('command', () => {
  test('a string is for the shell, an argv is taken as it is', () => {
    expect(request({ command: 'a | b' }).argv).toEqual(['/bin/sh', '-c', 'a | b'])
    expect(request({ command: ['a', 'b c'] }).argv).toEqual(['a', 'b c'])
  })

  test('the environment is the defaults, then the image, then the spec', () => {
    const of = image({ env: { PATH: '/image', A: 'image', B: 'image' } })
    const { env } = request({ command: 'true', env: { B: 'spec', TZ: 'Asia/Tokyo' } }, of)
    expect(env).toMatchObject({ PATH: '/image', A: 'image', B: 'spec', TZ: 'Asia/Tokyo', HOME: '/root', USER: 'root' })
  })

  test.each([
    [{}, {}, 'root', '/'],
    [{ user: 'app', workdir: '/srv' }, {}, 'app', '/srv'],
    [{ user: 'app', workdir: '/srv' }, { user: '1000:50', workdir: 'x/../y' }, '1000:50', '/srv/y'],
    [{ workdir: '/srv' }, { workdir: '/abs' }, 'root', '/abs'],
  ])('user and directory of image %j and spec %j', (config, input, user, workdir) => {
    expect(request({ command: 'true', ...input }, image(config))).toMatchObject({ user, workdir })
  })

  test.each([
    ['app', '/home/app', 'app'],
    ['app:staff', '/home/app', 'app'],
    ['1000', '/', '1000'],
    ['0', '/root', '0'],
  ])('home of %s', (user, home, name) => {
    expect(request({ command: 'true', user }).env).toMatchObject({ HOME: home, USER: name })
  })

  test('standard input is a pipe only where there is some', () => {
    expect(request({ command: 'true' }).stdin).toBe('none')
    expect(request({ command: 'true', stdin: '' }).stdin).toBe('pipe')
    expect(stdinBytes({ base64: 'AAH/' })).toEqual(Buffer.from([0, 1, 255]))
  })
})
