import type { CoordinatorFrame } from '@bramble/protocol'

/** Leases hold whole specs: beyond this, one frame becomes several. */
const MAX_LEASES_CHARS = 256 * 1024

/** The JSON of a frame; of many leases, of several frames. */
export const frameTexts = (frame: CoordinatorFrame): string[] => {
  if (frame.type !== 'lease' || frame.items.length < 2) return [JSON.stringify(frame)]
  const texts: string[] = []
  let items: string[] = []
  let chars = 0
  const flush = (): void => {
    if (items.length > 0) texts.push(`{"type":"lease","items":[${items.join(',')}]}`)
    items = []
    chars = 0
  }
  for (const item of frame.items) {
    const text = JSON.stringify(item)
    if (chars + text.length > MAX_LEASES_CHARS) flush()
    items.push(text)
    chars += text.length
  }
  flush()
  return texts
}
