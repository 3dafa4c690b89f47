import type { Bramble, Instance } from '@bramble/sdk'
import { EXIT, ExitError } from '../exit.ts'

const ID = /^ins_[0-9a-hjkmnp-tv-z]{26}$/
const NAME = /^(?!ins[-_])[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?$/
/** Ids begin with a digit after their prefix, names never do: they cannot be taken for each other. */
const PREFIX = /^(?:ins_)?([0-9][0-9a-hjkmnp-tv-z]{1,25})$/

/** The instance that is meant by an id, the unique beginning of one (with or without `ins_`), or a name. */
export const findInstance = async (bramble: Bramble, ref: string, signal?: AbortSignal): Promise<Instance> => {
  if (ID.test(ref) || NAME.test(ref)) {
    try {
      return await bramble.instances.get(ref, { signal })
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'not_found') throw error
      throw new ExitError(EXIT.failure, `there is no instance ${JSON.stringify(ref)}`, HINT)
    }
  }
  const prefix = PREFIX.exec(ref)?.[1]
  if (prefix === undefined)
    throw new ExitError(EXIT.failure, `${JSON.stringify(ref)} is neither the id nor the name of an instance`, HINT)
  const found: Instance[] = []
  for await (const instance of bramble.instances.list({ limit: PAGE, signal }))
    if (instance.id.startsWith(`ins_${prefix}`)) found.push(instance)
  const [only, second] = found
  if (only === undefined) throw new ExitError(EXIT.failure, `no instance's id begins with ins_${prefix}`, HINT)
  if (second === undefined) return only
  const ids = found.map(({ id }) => id).slice(0, 5)
  throw new ExitError(
    EXIT.failure,
    `${found.length} instances' ids begin with ins_${prefix}`,
    `For example: ${ids.join(', ')}.`,
  )
}

const HINT = '`bramble ps --all` lists them.'
const PAGE = 500

/** What a person calls it. */
export const calledOf = ({ name, id }: Pick<Instance, 'name' | 'id'>): string => name ?? id
