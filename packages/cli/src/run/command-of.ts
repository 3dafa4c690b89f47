/** One word with white space or shell syntax in it is a line for `sh -c`; anything else is an argv as it stands. */
export const commandOf = (words: readonly string[]): string | string[] => {
  const [only = ''] = words
  return words.length === 1 && /[\s;&|<>$`*?(){}"'\\#~]/.test(only) ? only : [...words]
}
