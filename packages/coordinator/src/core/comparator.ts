import type { Comparator, JobResult, ResultContent } from '@bramble/protocol'

/**
 * Whether two results are the same under a job's comparator. It reads what strangers sent: it never throws, and its work
 * is bounded by the size of the smaller text.
 */
type Fuzzy = Extract<Comparator, { type: 'fuzzy' }>
interface Tolerance {
  readonly absolute: number
  readonly relative: number
}

/** Deeper values are equal only if all of the text is. */
const MAX_DEPTH = 128

/** What the pointers say, as a tree of their steps; `*` stands for any name or index. */
interface Rules {
  ignore?: true
  tolerance?: Tolerance
  readonly steps: Map<string, Rules>
}

const newRules = (): Rules => ({ steps: new Map() })

/** RFC 6901: `~1` is a slash, `~0` a tilde. */
const stepsOf = (pointer: string): string[] =>
  pointer === ''
    ? []
    : pointer
        .replace(/^\//, '')
        .split('/')
        .map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'))

const rulesAt = (root: Rules, pointer: string): Rules => {
  let rules = root
  for (const step of stepsOf(pointer)) {
    const next = rules.steps.get(step) ?? newRules()
    rules.steps.set(step, next)
    rules = next
  }
  return rules
}

const rulesOf = ({ fields, ignore }: Fuzzy): Rules => {
  const root = newRules()
  for (const [pointer, tolerance] of Object.entries(fields)) rulesAt(root, pointer).tolerance = tolerance
  for (const pointer of ignore) rulesAt(root, pointer).ignore = true
  return root
}

/** By name before by `*`, so that the closest rule comes first. Rules are a tree: none is found twice. */
const rulesBelow = (rules: readonly Rules[], step: string): Rules[] => {
  const below: Rules[] = []
  for (const name of step === '*' ? [step] : [step, '*']) {
    for (const { steps } of rules) {
      const next = steps.get(name)
      if (next !== undefined) below.push(next)
    }
  }
  return below
}

const numbersMatch = (a: number, b: number, { absolute, relative }: Tolerance): boolean => {
  if (Object.is(a, b) || a === b) return true
  // A number that JSON wrote too large for a double (1e999) is infinite here: nothing is near it.
  const difference = Math.abs(a - b)
  if (!Number.isFinite(difference)) return false
  return difference <= absolute || difference <= relative * Math.max(Math.abs(a), Math.abs(b))
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const valuesMatch = (a: unknown, b: unknown, rules: readonly Rules[], inherited: Tolerance, depth: number): boolean => {
  if (rules.some(({ ignore }) => ignore)) return true
  const tolerance = rules.find((rule) => rule.tolerance !== undefined)?.tolerance ?? inherited
  if (typeof a === 'number' && typeof b === 'number') return numbersMatch(a, b, tolerance)
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return a === b
  if (depth >= MAX_DEPTH) return false
  const match = (x: unknown, y: unknown, step: string): boolean =>
    valuesMatch(x, y, rules.length === 0 ? rules : rulesBelow(rules, step), tolerance, depth + 1)
  if (Array.isArray(a))
    return Array.isArray(b) && a.length === b.length && a.every((item, index) => match(item, b[index], String(index)))
  if (!isRecord(a) || !isRecord(b)) return false
  // A name that is ignored may also be missing on one side.
  for (const name of new Set([...Object.keys(a), ...Object.keys(b)])) {
    if (Object.hasOwn(a, name) && Object.hasOwn(b, name)) {
      if (!match(a[name], b[name], name)) return false
    } else if (!rulesBelow(rules, name).some(({ ignore }) => ignore)) return false
  }
  return true
}

const NOT_JSON = Symbol('not JSON')

const jsonOf = (content: ResultContent): unknown => {
  if ('blob' in content) return NOT_JSON
  try {
    const { encoding } = content
    return JSON.parse(encoding === 'utf8' ? content.content : Buffer.from(content.content, 'base64').toString('utf8'))
  } catch {
    return NOT_JSON
  }
}

const contentDigest = (content: JobResult['outputs'][string]): string =>
  'error' in content ? content.error : content.sha256

const outputsMatch = (a: JobResult['outputs'], b: JobResult['outputs']): boolean => {
  const paths = Object.keys(a)
  return (
    paths.length === Object.keys(b).length &&
    paths.every((path) => {
      const [mine, other] = [a[path], b[path]]
      return mine !== undefined && other !== undefined && contentDigest(mine) === contentDigest(other)
    })
  )
}

/** Of the results of one job, each parsed once. Only standard output is compared by value; its blobs are by digest. */
export const fuzzyMatcher = (comparator: Fuzzy): ((a: JobResult, b: JobResult) => boolean) => {
  const rules = rulesOf(comparator)
  const parsed = new Map<JobResult, unknown>()
  const stdoutOf = (result: JobResult): unknown => {
    if (!parsed.has(result)) parsed.set(result, jsonOf(result.stdout))
    return parsed.get(result)
  }
  return (a, b) => {
    if (a.status !== b.status || a.exitCode !== b.exitCode || a.signal !== b.signal) return false
    if (a.truncated !== b.truncated) return false
    if (!outputsMatch(a.outputs, b.outputs)) return false
    if (a.stdout.sha256 === b.stdout.sha256) return true
    const [x, y] = [stdoutOf(a), stdoutOf(b)]
    return x !== NOT_JSON && y !== NOT_JSON && valuesMatch(x, y, [rules], comparator, 0)
  }
}
