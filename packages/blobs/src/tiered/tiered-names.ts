import type { Abortable, NameOptions, NameStore } from '../blob-store.ts'
import { checkName } from '../name-rules.ts'
import { until } from '../until.ts'
import { isUnavailable } from './breaker.ts'
import { type RecentSet, recentSet, type TieredContext } from './context.ts'
import { codeOf } from './fetch-blob.ts'

/** Names that were asked for are known for a while, also those that are not there. */
const checkedMax = 100_000

/**
 * Names are set here, and brought to the shared tier after the blobs that were put before them. What another node sets is seen
 * after `nameFreshMs` at the latest, as long as the shared tier answers; until it does again, what was known last is given.
 */
export const tieredNames = (context: TieredContext): NameStore => {
  const { local, shared, queue, breaker, lock, now, kick } = context
  const checked: RecentSet = recentSet(checkedMax, context.nameFreshMs, now)
  const asking = new Map<string, Promise<Uint8Array | undefined>>()

  /** A damaged value is none: it was set aside, and the shared tier has another. */
  const localValue = async (name: string): Promise<Uint8Array | undefined> => {
    try {
      return await local.names.get(name)
    } catch (thrown) {
      if (codeOf(thrown) !== 'blob_corrupt') throw thrown
      checked.delete(name)
      return undefined
    }
  }

  /** Takes over what the shared tier has, unless it was changed here in the meantime. */
  const adopt = (name: string, value: Uint8Array | undefined): Promise<Uint8Array | undefined> =>
    lock(`name ${name}`, async () => {
      if (queue.get('name', name)) return own(name)
      const before = await localValue(name)
      checked.add(name)
      if (value !== undefined) {
        // What cannot be written here can be asked for again.
        if (!before || !sameBytes(before, value)) await local.names.set(name, value).catch(() => undefined)
        return value
      }
      if (!before || !context.isBound()) return before
      // Another node removed it.
      await local.names.remove(name).catch(() => undefined)
      return undefined
    })

  /** What this node said last, and did not bring to the shared tier yet. */
  const own = async (name: string): Promise<Uint8Array | undefined> =>
    queue.get('name', name)?.does === 'remove' ? undefined : localValue(name)

  const ask = async (name: string): Promise<Uint8Array | undefined> => {
    try {
      return await adopt(name, await breaker.run((signal) => shared.names.get(name, { signal })))
    } catch (thrown) {
      if (codeOf(thrown) !== 'blob_corrupt') throw thrown
      return lock(`name ${name}`, async () => {
        const value = await localValue(name)
        if (!value) throw thrown
        context.observe({ kind: 'healed', tier: 'shared', what: `name ${name}` })
        await queue.add({ kind: 'name', target: name, does: 'put' }, 0)
        kick()
        return value
      })
    }
  }
  const askOnce = (name: string): Promise<Uint8Array | undefined> => {
    const present = asking.get(name)
    if (present) return present
    const answer = ask(name).finally(() => asking.delete(name))
    asking.set(name, answer)
    context.background(answer)
    return answer
  }

  const change = (name: string, does: 'put' | 'remove', run: () => Promise<void>): Promise<void> =>
    lock(`name ${name}`, async () => {
      await run()
      await context.step('enqueue name')
      await queue.add({ kind: 'name', target: name, does }, 0)
      checked.add(name)
      kick()
    })

  const listMerged = async function* (prefix: string, options: Abortable): AsyncGenerator<string> {
    // Before the shared tier is asked: what is brought there meanwhile is in one of the two.
    const pending = new Map<string, boolean>()
    for (const { task } of queue.all())
      if (task.kind === 'name' && task.target.startsWith(prefix)) pending.set(task.target, task.does === 'put')
    const mine: string[] = []
    if (!context.isBound()) for await (const name of local.names.list(prefix, options)) mine.push(name)
    for (const [name, isSet] of pending) if (isSet) mine.push(name)
    const own = [...new Set(mine)].sort()
    let next = 0
    for await (const name of listShared(context, prefix, options)) {
      for (let mineNext = own[next]; mineNext !== undefined && mineNext <= name; mineNext = own[next]) {
        next++
        if (mineNext !== name && pending.get(mineNext) !== false) yield mineNext
      }
      if (pending.get(name) !== false) yield name
    }
    for (const name of own.slice(next)) if (pending.get(name) !== false) yield name
  }

  return {
    set: async (name, value, options) => {
      checkName(name)
      const copy = Uint8Array.from(value)
      await change(name, 'put', () => local.names.set(name, copy, options))
    },
    get: async (name, { reach = 'recent', signal }: NameOptions = {}) => {
      checkName(name)
      signal?.throwIfAborted()
      if (queue.get('name', name)) return own(name)
      if (reach === 'local') return localValue(name)
      if (reach === 'recent' && checked.has(name)) {
        const value = await localValue(name)
        if (checked.has(name)) return value
      }
      try {
        return await until(askOnce(name), signal)
      } catch (thrown) {
        const known = reach === 'now' || !isUnavailable(thrown) ? undefined : await localValue(name)
        if (!known) throw thrown
        return known
      }
    },
    remove: async (name, options) => {
      checkName(name)
      await change(name, 'remove', () => local.names.remove(name, options))
    },
    list: (prefix, { reach = 'recent', ...options }: NameOptions = {}) =>
      reach === 'local' ? local.names.list(prefix, options) : listMerged(prefix, options),
  }
}

/** Page by page, each within the time of a request. */
async function* listShared(
  { shared, breaker }: TieredContext,
  prefix: string,
  { signal }: Abortable,
): AsyncGenerator<string, void, undefined> {
  const names = shared.names.list(prefix, { signal })[Symbol.asyncIterator]()
  try {
    for (;;) {
      const next = await breaker.run(() => names.next(), signal)
      if (next.done) return
      yield next.value
    }
  } finally {
    // One that waits for an answer would have to be waited for.
    void Promise.resolve(names.return?.()).catch(() => undefined)
  }
}

const sameBytes = (left: Uint8Array, right: Uint8Array): boolean => Buffer.compare(left, right) === 0
