import { readFileSync } from 'node:fs'

/** One policy against one attack, of what `bench/policies.ts` records. */
interface Measured {
  readonly policy: string
  readonly attack: string
  readonly jobs: number
  readonly executions: number
  readonly wrongAtFirst: number
  readonly wrongAtLast: number
  readonly reopened: number
  readonly liarsConvicted: number
  readonly honestConvicted: number
}

interface Recorded {
  readonly options: { readonly jobs: number }
  readonly columns: readonly string[]
  readonly attacks: Readonly<Record<string, Readonly<Record<string, readonly number[]>>>>
}

const DOCUMENT = new URL('../../docs/verification.md', import.meta.url)
const RECORDED = new URL('../../bench/recorded/policies.json', import.meta.url)

/** Where none was seen, what can be ruled out with 95%: three over the number of jobs. */
const share = (count: number, jobs: number): string =>
  count === 0 ? `< ${(3 / jobs).toExponential(0)}` : (count / jobs).toExponential(1).replace('.0e', 'e')

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map((_, index) => (index === 0 ? '---' : '---:')), ...rows]
    .map((cells) => `| ${cells.join(' | ')} |`)
    .join('\n')

const unique = (names: readonly string[]): string[] => [...new Set(names)]

const tables = (): Record<string, string> => {
  const { options, columns, attacks: byAttack }: Recorded = JSON.parse(readFileSync(RECORDED, 'utf8'))
  const rows = Object.entries(byAttack).flatMap(([attack, byPolicy]) =>
    Object.entries(byPolicy).map(([policy, counts]): Measured => {
      const count = (name: string): number => counts[columns.indexOf(name)] ?? Number.NaN
      return {
        ...{ policy, attack, jobs: options.jobs, executions: count('executions') },
        ...{ wrongAtFirst: count('wrongAtFirst'), wrongAtLast: count('wrongAtLast'), reopened: count('reopened') },
        ...{ liarsConvicted: count('liarsConvicted'), honestConvicted: count('honestConvicted') },
      }
    }),
  )
  const attacks = unique(rows.map(({ attack }) => attack))
  const policies = unique(rows.map(({ policy }) => policy))
  const cellsOf = (policy: string): string[] =>
    attacks.map((attack) => {
      const found = rows.find((row) => row.policy === policy && row.attack === attack)
      if (found === undefined) return ''
      const { executions, jobs, wrongAtLast } = found
      return `${(executions / jobs).toFixed(2)}, ${share(wrongAtLast, jobs)}`
    })
  const details = rows.filter(({ policy }) => /\(default\)|^`fast`/.test(policy))
  return {
    policies: table(
      ['copies a job, wrong in the end', ...attacks],
      policies.map((policy) => [policy, ...cellsOf(policy)]),
    ),
    details: table(
      ['policy, attack', 'wrong at first', 'asked again', 'liars convicted', 'honest nodes convicted'],
      details.map((row) => [
        `${row.policy}; ${row.attack}`,
        share(row.wrongAtFirst, row.jobs),
        ...[row.reopened, row.liarsConvicted, row.honestConvicted].map((count) => count.toLocaleString('en-US')),
      ]),
    ),
  }
}

/** `docs/verification.md` with its tables made anew from what was recorded; the rest stays as it is. */
export const verificationDocument = (): string => {
  let text = readFileSync(DOCUMENT, 'utf8')
  for (const [name, made] of Object.entries(tables())) {
    const between = new RegExp(`(<!-- ${name} -->\\n)[\\s\\S]*?(\\n<!-- /${name} -->)`)
    if (!between.test(text)) throw new Error(`docs/verification.md has no place for the table \`${name}\``)
    text = text.replace(between, (_, before: string, after: string) => `${before}${made}${after}`)
  }
  return text
}
