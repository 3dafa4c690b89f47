import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { usePostgres } from '@bramble/coordinator/testing'
import { Bramble } from '@bramble/sdk'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { runCli, spawnCli } from '../../test/spawn-cli.ts'

let directory: string
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'bramble-coordinator-'))
})
afterAll(() => rm(directory, { recursive: true, force: true }))

const postgres = usePostgres()

interface Started extends AsyncDisposable {
  readonly url: string
  readonly apiKey: string
  readonly network: string
  readonly leads: boolean
  /** Ends it; its exit code. */
  end(signal?: NodeJS.Signals): Promise<number | null>
}

const start = async (name: string, env: Record<string, string> = {}): Promise<Started> => {
  const own = { BRAMBLE_DATA_DIR: join(directory, name), BRAMBLE_PORT: '0', ...env }
  const { child, ended, printed, text } = spawnCli(['coordinator'], own)
  await printed('"type":"ready"')
  // The log may have begun before it.
  await printed('"dataDirectory"')
  const line = text()
    .split('\n')
    .find((each) => each.includes('"type":"ready"'))
  const end = async (signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> => {
    child.kill(signal)
    return (await ended).code
  }
  return {
    ...JSON.parse(line ?? ''),
    end,
    [Symbol.asyncDispose]: async () => {
      await end('SIGKILL')
    },
  }
}

/** One that nothing listens on: coordinators tell each other where they are before they listen. */
const freePort = async (): Promise<string> => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  return String(port)
}

describe('bramble coordinator', () => {
  test('begins, takes jobs, ends, and goes on where it was; one alone has the directory', async () => {
    const first = await start('alone')
    const bramble = new Bramble({ url: first.url, apiKey: first.apiKey })
    const job = await bramble.jobs.submit({ command: 'true' })
    expect(await first.end()).toBe(0)
    await using second = await start('alone')
    expect(second).toMatchObject({ apiKey: first.apiKey, network: first.network, leads: true })
    const again = new Bramble({ url: second.url, apiKey: second.apiKey })
    expect(await again.jobs.get(job.id)).toMatchObject({ id: job.id, status: 'pending' })
    const other = await runCli(['coordinator', '--port', '0'], { BRAMBLE_DATA_DIR: join(directory, 'alone') })
    expect(other).toMatchObject({ code: 125, stderr: expect.stringContaining('uses') })
  })

  test('two on one database are one network: one key, and the jobs of both; where one is killed the other goes on', async (context) => {
    const BRAMBLE_DATABASE_URL = await postgres(context).newDatabase()
    const shared = { BRAMBLE_DATABASE_URL, BRAMBLE_CLUSTER_SECRET: 'the same at both of them' }
    const BRAMBLE_ADMIN_KEY = 'bramble_a-key-that-both-of-them-know'
    const first = await start('first', { ...shared, BRAMBLE_ADMIN_KEY, BRAMBLE_PORT: await freePort() })
    await using second = await start('second', { ...shared, BRAMBLE_PORT: await freePort() })
    expect([first.leads, second.leads]).toEqual([true, false])
    expect(second.network).toBe(first.network)
    const [one, other] = [first, second].map(({ url }) => new Bramble({ url, apiKey: BRAMBLE_ADMIN_KEY }))
    const job = await other?.jobs.submit({ command: 'true' })
    expect(await one?.jobs.get(job?.id ?? '')).toMatchObject({ status: 'pending' })
    await first.end('SIGKILL')
    expect(await other?.jobs.get(job?.id ?? '')).toMatchObject({ status: 'pending' })
    const stranger = { ...shared, BRAMBLE_CLUSTER_SECRET: 'another secret than theirs' }
    const refused = await runCli(['coordinator', '--port', '0'], {
      ...{ ...stranger, BRAMBLE_DATA_DIR: join(directory, 'stranger') },
    })
    expect(refused).toMatchObject({ code: 125, stderr: expect.stringContaining('the database is of the network') })
  })
})
