import { EXIT, ExitError } from '../exit.ts'

/** A node by itself has no jobs: it answers such a path with `not_found`, and whoever asked is told where jobs are. */
export const ofNetwork = async <T>(asked: Promise<T>): Promise<T> => {
  try {
    return await asked
  } catch (error) {
    const { code, detail } = error as { code?: unknown; detail?: unknown }
    const noRoute =
      code === 'method_not_allowed' || (code === 'not_found' && /^there is no route /.test(String(detail)))
    if (!noRoute) throw error
    throw new ExitError(
      EXIT.failure,
      'this is a node by itself, and no network',
      '`bramble up --nodes 3` runs a network on this host; `--url` or BRAMBLE_URL names the coordinator of another.',
    )
  }
}
