import { readFileSync } from 'node:fs'
import { DEFAULT_RESOURCES, LIMITS, type LimitName } from '@bramble/protocol'

const number = (value: number): string => value.toLocaleString('en-US')

/** Modules that set the bounds of one part: names and values are read from their text, so that formulas stay formulas. */
const PARTS = {
  'One engine': '../../packages/engine/src/limits.ts',
  'One gateway': '../../packages/gateway/src/limits.ts',
  'One coordinator': '../../packages/coordinator/src/fronts/limits.ts',
  'The TypeScript client': '../../packages/sdk/src/limits.ts',
} as const

/** The members of the object literals of a module that are numbers: `name: expression,`, or `name,` of a local. */
const boundsOf = (file: string): [name: string, value: string][] => {
  const text = readFileSync(new URL(file, import.meta.url), 'utf8')
  const locals = new Map(
    [...text.matchAll(/^ *const (\w+) = (.+)$/gm)].map(([, name = '', value = '']) => [name, value]),
  )
  return [...text.matchAll(/^ {2,4}([a-z]\w+)(?:: ([^;{\n]+))?,$/gm)].flatMap(
    ([, name = '', value = locals.get(name)]) =>
      value === undefined ? [] : [[name, readable(substituted(value, locals))]],
  )
}

const substituted = (expression: string, locals: ReadonlyMap<string, string>): string =>
  expression
    .replace(/LIMITS\.(\w+)\.value/g, (whole, name) => String(LIMITS[name as LimitName]?.value ?? whole))
    .replace(/\b[A-Z][A-Z_]+\b/g, (name) => locals.get(name) ?? name)

/** A product of plain numbers is multiplied out; anything else stays as it is in the code. */
const readable = (expression: string): string => {
  if (!/^[\d_ *]+$/.test(expression)) return `\`${expression.replaceAll('|', '\\|')}\``
  const factors = expression.replaceAll('_', '').split(/ \* /)
  const value = factors
    .map((factor) => factor.split(' ** ').map(Number))
    .reduce((product, [base = 1, power = 1]) => product * base ** power, 1)
  return number(value)
}

const table = (head: string, rows: readonly (readonly string[])[]): string[] => [
  `| ${head} |`,
  `|${head
    .split('|')
    .map((name) => (name.trim() === 'value' ? '---:' : '---'))
    .join('|')}|`,
  ...rows.map((row) => `| ${row.join(' | ')} |`),
  '',
]

/** `docs/limits.md`, made from the constants. */
export const limitsDocument = (): string =>
  [
    '# Limits',
    '',
    'Made by `npm run docs:limits` from the `limits.ts` of each package; a test keeps them equal.',
    '',
    'The unit of a limit is the end of its name.',
    '',
    '## What a client may ask for',
    '',
    'A request past one of these is refused with `invalid_request`, or `body_too_large` for the body as a whole, before',
    'anything runs.',
    '',
    ...table(
      'limit | value | why',
      Object.entries(LIMITS).map(([name, { value, why }]) => [`\`${name}\``, number(value), why]),
    ),
    '## What an execution gets when its spec does not say',
    '',
    ...table(
      'resource | value',
      Object.entries(DEFAULT_RESOURCES).map(([name, value]) => [`\`${name}\``, number(value)]),
    ),
    ...Object.entries(PARTS).flatMap(([title, file]) => [
      `## ${title}`,
      '',
      ...table(
        'limit | value',
        boundsOf(file).map(([name, value]) => [`\`${name}\``, value]),
      ),
    ]),
  ]
    .join('\n')
    .trimEnd()
    .concat('\n')
