import { jobRequestSchema } from '@bramble/protocol'
import { expect, it } from 'vitest'
import { applyProfile } from './determinism.ts'

const envOf = (body: object): Record<string, string> =>
  applyProfile(jobRequestSchema.parse({ command: 'true', ...body })).spec.env

it('fixes zone, locale, dates and seeds, but for what the job sets', () => {
  expect(envOf({})).toMatchObject({ TZ: 'UTC', LC_ALL: 'C.UTF-8', PYTHONHASHSEED: '0' })
  expect(envOf({ env: { TZ: 'Europe/Vienna', A: '1' } })).toMatchObject({
    TZ: 'Europe/Vienna',
    A: '1',
    LANG: 'C.UTF-8',
  })
})

it('leaves a job its own locale, which LC_ALL would override', () => {
  const env = envOf({ env: { LC_NUMERIC: 'de_DE.UTF-8' } })
  expect([env.LC_ALL, env.LANG, env.LC_NUMERIC]).toEqual([undefined, undefined, 'de_DE.UTF-8'])
})

it('is off where it is not wanted, and applied twice is applied once', () => {
  expect(envOf({ determinism: 'off', env: { A: '1' } })).toEqual({ A: '1' })
  const once = applyProfile(jobRequestSchema.parse({ command: 'true' }))
  expect(applyProfile(once)).toEqual(once)
})
