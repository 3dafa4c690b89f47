import { DEFAULT_RESOURCES, LIMITS } from '@bramble/protocol'

const number = (value: number): string => value.toLocaleString('en-US')

/** `docs/limits.md`, made from the constants. */
export const limitsDocument = (): string =>
  [
    '# Limits',
    '',
    'Made by `npm run docs:limits` from `packages/protocol/src/limits.ts`; a test keeps the two equal.',
    '',
    'The unit of a limit is the end of its name. A request past a limit is refused with `invalid_request`, or',
    '`body_too_large` for the body as a whole, before anything runs.',
    '',
    '| limit | value | why |',
    '|---|---:|---|',
    ...Object.entries(LIMITS).map(([name, { value, why }]) => `| \`${name}\` | ${number(value)} | ${why} |`),
    '',
    '## What an execution gets when its spec does not say',
    '',
    '| resource | value |',
    '|---|---:|',
    ...Object.entries(DEFAULT_RESOURCES).map(([name, value]) => `| \`${name}\` | ${number(value)} |`),
    '',
  ].join('\n')
