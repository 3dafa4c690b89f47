/** What `read` gave within `maxAgeMs`; asked once however many want it. What failed is asked again. */
export const cached = <T>(maxAgeMs: number, read: () => Promise<T>): (() => Promise<T>) => {
  let value: Promise<T> | undefined
  let at = 0
  return () => {
    const now = performance.now()
    if (value !== undefined && now - at <= maxAgeMs) return value
    at = now
    const asked = read()
    value = asked
    asked.catch(() => {
      if (value === asked) value = undefined
    })
    return asked
  }
}
