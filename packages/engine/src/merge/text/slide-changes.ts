/**
 * Where a run of changed lines could as well begin a line earlier or later (the line before it is equal to its last one, or the
 * line after it to its first), all places are equally right; what is chosen decides which changes meet. As `git` does: runs
 * that touch become one; a run goes as far down as it can, but back to where the other text has a change too, if it has one.
 *
 * `changed` says which of `ids` are changed, and is changed; `other` says it of the other text.
 */
export const slideChanges = (ids: Int32Array, changed: Uint8Array, other: Uint8Array): void => {
  const partner = makePartner(other)
  let line = 0
  while (line < ids.length) {
    if (changed[line] !== 1) {
      line++
      partner.next()
      continue
    }
    line = slideRun(ids, changed, partner, line)
  }
}

const slideRun = (ids: Int32Array, changed: Uint8Array, partner: Partner, first: number): number => {
  let start = first
  let end = runEnd(changed, start)
  let size: number
  let earliest: number
  let meeting: number
  do {
    size = end - start
    while (start > 0 && ids[start - 1] === ids[end - 1]) {
      changed[--start] = 1
      changed[--end] = 0
      start = runStart(changed, start)
      partner.previous()
    }
    earliest = end
    meeting = partner.hasChange() ? end : -1
    while (end < ids.length && ids[start] === ids[end]) {
      changed[start++] = 0
      changed[end++] = 1
      end = runEnd(changed, end)
      partner.next()
      if (partner.hasChange()) meeting = end
    }
  } while (size !== end - start)
  if (end !== earliest && meeting !== -1)
    while (end > meeting) {
      changed[--start] = 1
      changed[--end] = 0
      partner.previous()
    }
  return end
}

const runStart = (changed: Uint8Array, from: number): number => {
  let start = from
  while (start > 0 && changed[start - 1] === 1) start--
  return start
}

const runEnd = (changed: Uint8Array, from: number): number => {
  let end = from
  while (changed[end] === 1) end++
  return end
}

/** A place between two common lines of the other text: the changed lines there, if any. */
interface Partner {
  next(): void
  previous(): void
  hasChange(): boolean
}

const makePartner = (other: Uint8Array): Partner => {
  let start = 0
  let end = runEnd(other, 0)
  return {
    next() {
      start = Math.min(end + 1, other.length)
      end = runEnd(other, start)
    },
    previous() {
      end = Math.max(start - 1, 0)
      start = runStart(other, end)
    },
    hasChange: () => end > start,
  }
}
