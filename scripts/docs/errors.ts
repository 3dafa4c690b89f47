import { ERROR_CODES, ERRORS } from '@bramble/protocol'

/** `docs/errors.md`, made from the table of errors. */
export const errorsDocument = (): string =>
  [
    '# Errors',
    '',
    'Made by `npm run docs:errors` from `packages/protocol/src/errors.ts`; a test keeps the two equal.',
    '',
    'Every error of the HTTP API is a problem document (RFC 9457, `application/problem+json`) with the members `type`,',
    '`title`, `status`, `detail`, and ours: `code`, `hint`, `retryable`, `requestId`, and where they apply `retryAfterMs`',
    'and `issues`. Tell errors apart by `code`; texts may change. `retryable` says whether the same request may succeed',
    'later. A command that exits with a code other than 0 is a result, not an error.',
    '',
    ...ERROR_CODES.flatMap((code) => {
      const { status, retryable, title, hint } = ERRORS[code]
      return [
        `## \`${code}\``,
        '',
        `${title}. Status ${status}, ${retryable ? 'may be retried' : 'not retried'}.`,
        '',
        hint,
        '',
      ]
    }),
  ].join('\n')
