import { findCommand } from '../setup/run-command.ts'

/**
 * Runs `work` with a Docker Engine at hand: the one that the environment names, the one that runs on this host, or one
 * started for it and stopped afterwards. Without Docker it runs all the same: the tests that need it say that they were
 * skipped, or fail where REQUIRE_DRIVERS names it.
 */
export const withDockerd = async <T>(work: (env: Record<string, string>) => Promise<T>): Promise<T> => {
  if (process.env.DOCKER_HOST || findCommand('dockerd') === undefined || process.getuid?.() !== 0) return await work({})
  const { startDockerd } = await import('@bramble/runtime/testing/dockerd')
  const dockerd = await startDockerd().catch((error: unknown) => {
    console.log(error instanceof Error ? error.message : String(error))
    return undefined
  })
  if (dockerd === undefined) return await work({})
  await using _stopped = dockerd
  return await work(dockerd.own ? { DOCKER_HOST: `unix://${dockerd.socketPath}` } : {})
}
