import { describe, expect, test } from 'vitest'
import { type CoordinatorFlags, readCoordinatorConfig } from './coordinator-config.ts'

const read = (flags: CoordinatorFlags = {}, env: Record<string, string> = {}) =>
  readCoordinatorConfig(flags, '/data', env)
const SECRET = { BRAMBLE_CLUSTER_SECRET: 'a secret of a cluster' }

describe('the configuration of a coordinator', () => {
  test('alone on SQLite nothing has to be said', () => {
    expect(read()).toMatchObject({
      ...{ dataDirectory: '/data/network', database: '/data/network/network.db' },
      ...{ host: '127.0.0.1', port: 8090, shareMachines: false, open: false, trustedProxies: [] },
    })
  })

  test('flags win over the environment', () => {
    const env = { ...SECRET, BRAMBLE_PORT: '1', BRAMBLE_DATABASE_URL: 'postgres://u:p@db/x', BRAMBLE_OPEN: '1' }
    expect(read({ port: '2' }, env)).toMatchObject({ port: 2, database: 'postgres://u:p@db/x', open: true })
    expect(read({ failover: 2000 }, { BRAMBLE_FAILOVER_MS: '1000', BRAMBLE_SNAPSHOT_EVERY_MS: '5000' })).toMatchObject({
      ...{ failoverMs: 2000, snapshotEveryMs: 5000 },
    })
    const lists = read({ trustedProxies: '10.0.0.0/8, 192.0.2.1' })
    expect(lists.trustedProxies).toEqual(['10.0.0.0/8', '192.0.2.1'])
  })

  test.each<[string, CoordinatorFlags, Record<string, string>, string]>([
    ['PostgreSQL without a secret', { database: 'postgres://db/x' }, {}, 'BRAMBLE_CLUSTER_SECRET'],
    ['a secret that can be guessed', {}, { BRAMBLE_CLUSTER_SECRET: 'short' }, 'clusterSecret'],
    ['a password as an argument', { database: 'postgres://u:p@db/x' }, SECRET, 'BRAMBLE_DATABASE_URL'],
    ['a password of Redis as an argument', { redis: 'redis://:p@r' }, {}, 'BRAMBLE_REDIS_URL'],
    ['a port that is none', { port: '70000' }, {}, 'port'],
    ['a URL that is none', { advertiseUrl: 'somewhere' }, {}, 'advertiseUrl'],
  ])('%s is refused', (_what, flags, env, named) => {
    expect(() => read(flags, env)).toThrow(named)
  })
})
