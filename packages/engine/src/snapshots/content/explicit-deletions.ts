import type { LayerEntry } from '@bramble/runtime'
import type { ImageListing } from './image-listing.ts'
import { pathHeap } from './path-heap.ts'

/**
 * A layer in which nothing is hidden in silence: an opaque directory becomes a plain one, and a `deleted` entry for each name
 * that the image has in it and the layer has not. A directory that the layer made anew below it hides as much.
 */
export async function* explicitDeletions(
  entries: AsyncIterable<LayerEntry>,
  image: ImageListing,
): AsyncGenerator<LayerEntry, void, undefined> {
  const hidden = pathHeap()
  for await (const entry of entries) {
    for (let path = hidden.least; path !== undefined && path < entry.path; path = hidden.least) {
      yield { type: 'deleted', path }
      hidden.pop()
    }
    const isHidden = hidden.least === entry.path
    if (isHidden) hidden.pop()
    if (entry.type !== 'directory') {
      yield entry
      continue
    }
    yield entry.opaque ? { ...entry, opaque: false } : entry
    if (!entry.opaque && !isHidden) continue
    for (const name of (await image.names(entry.path)) ?? []) hidden.push(`${entry.path}/${name}`)
  }
  for (let path = hidden.least; path !== undefined; path = hidden.least) {
    yield { type: 'deleted', path }
    hidden.pop()
  }
}
