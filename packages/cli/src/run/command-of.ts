/**
 * One word with white space or shell syntax in it is a line for `sh -c`; anything else is an argv as it stands. A `--` before
 * it, which may stand after the name of an instance, is none of it.
 */
export const commandOf = (given: readonly string[]): string | string[] => {
  const words = given.length > 1 && given[0] === '--' ? given.slice(1) : given
  const [only = ''] = words
  return words.length === 1 && /[\s;&|<>$`*?(){}"'\\#~]/.test(only) ? only : [...words]
}
