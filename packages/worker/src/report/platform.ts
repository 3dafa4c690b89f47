import { readFileSync } from 'node:fs'
import { arch } from 'node:os'

/** Of the levels of x86-64 (psABI): each needs these beside what is below it. */
const X86_LEVELS: readonly (readonly string[])[] = [
  ['cx16', 'lahf_lm', 'popcnt', 'sse4_1', 'sse4_2', 'ssse3'],
  ['avx', 'avx2', 'bmi1', 'bmi2', 'f16c', 'fma', 'movbe', 'xsave'],
  ['avx512f', 'avx512bw', 'avx512cd', 'avx512dq', 'avx512vl'],
]

/** `x86-64-v3`, from the flags of `/proc/cpuinfo`; other machines by their name. */
export const instructionSet = (cpuinfo: string, machine: string = arch()): string => {
  if (machine !== 'x64') return machine
  const flags = new Set(/^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.trim().split(/\s+/) ?? [])
  const missing = X86_LEVELS.findIndex((level) => level.some((flag) => !flags.has(flag)))
  return `x86-64-v${missing === -1 ? X86_LEVELS.length + 1 : missing + 1}`
}

const readOr = (file: string, other: string): string => {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return other
  }
}

/** What results may differ by: the processor's instructions, and what makes the sandboxes. */
export const platformOf = (runtimes: readonly string[]): string =>
  [instructionSet(readOr('/proc/cpuinfo', '')), ...runtimes].join(' ').slice(0, 128)
