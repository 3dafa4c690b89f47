import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { errorsDocument } from './docs/errors.ts'
import { limitsDocument } from './docs/limits.ts'
import { verificationDocument } from './docs/verification.ts'
import { noDeadFiles } from './tidy/dead-files.ts'
import { cliIsLazy, importsFollowTheTable, importsOf } from './tidy/imports.ts'
import { type Repository, type Rule, readRepository } from './tidy/repository.ts'
import {
  filesAreShort,
  linksResolve,
  maxFileLines,
  namesAreKebabCase,
  noForbiddenWords,
  noHostPaths,
  suppressionsHaveReasons,
} from './tidy/text-rules.ts'

const root = resolve(import.meta.dirname, '..')
const repository = readRepository(root)

const manifest = (value: object = {}): string => JSON.stringify(value)
/** Samples are put together, so that this file passes the rules that it tests. */
const join = (...parts: string[]): string => parts.join('')
const sample = (files: Record<string, string>): Repository => new Map(Object.entries(files))
const ENGINE = manifest({ exports: { '.': './src/index.ts' }, dependencies: { zod: '*' } })

/** Each rule with repositories that it must accept, and ones in which it must find a fault that reads like this. */
const RULES: Record<string, { rule: Rule; good: Record<string, string>[]; bad: [Record<string, string>, RegExp][] }> = {
  importsFollowTheTable: {
    rule: importsFollowTheTable,
    good: [
      {
        'packages/engine/package.json': ENGINE,
        'packages/runtime/package.json': manifest({ exports: { '.': './src/index.ts' } }),
        'packages/engine/src/a.ts': join('im', "port { b } from '@bramble/runtime'\nim", "port { z } from 'zod'\n"),
      },
    ],
    bad: [
      [
        {
          'packages/runtime/src/a.ts': join('im', "port type { Engine } from '@bramble/engine'\n"),
          'packages/engine/package.json': ENGINE,
        },
        /a\.ts:1 runtime may not import engine/,
      ],
      [
        {
          'packages/gateway/src/a.ts': join('\nim', "port {\n  x,\n} from '@bramble/engine/src/b.ts'\n"),
          'packages/engine/package.json': ENGINE,
        },
        /a\.ts:2 @bramble\/engine\/src\/b\.ts is not exported/,
      ],
      [
        {
          'packages/gateway/src/a.ts': join('ex', "port * from '../../engine/src/b.ts'\n"),
          'packages/engine/src/b.ts': '',
        },
        /leaves gateway/,
      ],
      [
        { 'scripts/a.ts': join('im', "port '../packages/cli/src/b.ts'\n"), 'packages/cli/src/b.ts': '' },
        /leaves the root/,
      ],
      [{ 'packages/cli/src/a.ts': join('await im', "port('./b.ts')\n") }, /b\.ts is not there/],
      [{ 'packages/sdk/src/a.ts': join('im', "port fs from 'node:fs'\n") }, /no node:fs/],
      [{ 'packages/engine/src/a.ts': join('im', "port x from 'left-pad/x'\n") }, /left-pad is not among/],
      [{ 'packages/shared/src/a.ts': '' }, /shared is not in the import table/],
    ],
  },
  cliIsLazy: {
    rule: cliIsLazy,
    good: [{ 'packages/cli/src/main.ts': join('await im', "port('@bramble/engine')\n") }],
    bad: [
      [
        {
          'packages/cli/src/main.ts': join('im', "port './b.ts'\n"),
          'packages/cli/src/b.ts': join('im', "port { x } from '@bramble/engine'\n"),
        },
        /b\.ts:1 @bramble\/engine is loaded by every command/,
      ],
    ],
  },
  noDeadFiles: {
    rule: noDeadFiles,
    good: [
      {
        'packages/engine/package.json': ENGINE,
        'packages/engine/src/index.ts': join('im', "port './b.ts'\n"),
        'packages/engine/src/b.ts': "new Worker(new URL('./c.ts', import.meta.url))",
        'packages/engine/src/c.ts': '',
        'packages/engine/src/d.test.ts': '',
      },
    ],
    bad: [[{ 'packages/engine/package.json': ENGINE, 'packages/engine/src/b.ts': '' }, /b\.ts:1 nothing uses/]],
  },
  filesAreShort: {
    rule: filesAreShort,
    good: [{ 'a.c': 'x\n'.repeat(maxFileLines) }],
    bad: [[{ 'a.c': 'x\n'.repeat(maxFileLines + 1) }, /has 501 lines/]],
  },
  namesAreKebabCase: {
    rule: namesAreKebabCase,
    good: [
      {
        'packages/agent/Makefile': '',
        'README.md': '',
        'docs/decisions/0001-a.md': '',
        '.ci/run': '',
        'a.test.ts': '',
      },
    ],
    bad: [
      [{ 'packages/cli/src/fooBar.ts': '' }, /fooBar\.ts is not kebab-case/],
      [{ 'packages/My_Package/a.ts': '' }, /My_Package is not/],
      [{ 'NOTES.md': '' }, /NOTES\.md is not/],
    ],
  },
  noHostPaths: {
    rule: noHostPaths,
    good: [{ 'a.md': 'the folder /workspace, /root and /tmp/x of a sandbox' }],
    bad: [
      [{ 'a.md': join('see /wo', 'rk/main/x') }, /a\.md:1 .* is a path of one machine/],
      [{ 'a.ts': join("\n'/Us", "ers/alice/x'") }, /a\.ts:2/],
    ],
  },
  noForbiddenWords: {
    rule: noForbiddenWords,
    good: [{ 'a.md': 'a hackle, a todo list, xxx and the agent' }],
    bad: [
      [{ 'a.c': join('/* TO', 'DO */') }, /does not belong/],
      [{ 'a.md': join('Blaz', 'ing fast') }, /does not belong/],
      [{ 'a.json': join('https://registry.npm', 'js.org/x') }, /does not belong/],
    ],
  },
  suppressionsHaveReasons: {
    rule: suppressionsHaveReasons,
    good: [{ 'a.ts': join('// biome', '-ignore lint/a/b: the library says any here') }],
    bad: [
      [{ 'a.ts': join('// biome', '-ignore lint/a/b: x') }, /has no reason/],
      [{ 'a.ts': join('// @ts', '-expect-error') }, /has no reason/],
      [{ 'a.ts': join('// @ts', '-ignore it is fine, really') }, /is not used here/],
    ],
  },
  linksResolve: {
    rule: linksResolve,
    good: [
      {
        'README.md': '[a](docs/b.md#two-words) [c](docs/) [d](https://example.org) [l](LICENSE) [self](#top)\n# Top\n',
        'docs/b.md': '# Two words\n',
      },
    ],
    bad: [
      [{ 'README.md': '\n[a](docs/b.md)' }, /README\.md:2 docs\/b\.md leads nowhere/],
      [{ 'README.md': '[a](b.md#x)', 'b.md': '# y\n' }, /no such heading/],
    ],
  },
}

describe('the repository', () => {
  test.for(Object.entries(RULES))('%s', ([, { rule }]) => {
    expect(rule(repository)).toEqual([])
  })

  test.for([
    ['errors', errorsDocument],
    ['limits', limitsDocument],
    ['verification', verificationDocument],
  ] as const)('docs/%s.md is what npm run docs:%s writes', ([name, make]) => {
    expect(readFileSync(resolve(root, 'docs', `${name}.md`), 'utf8')).toBe(make())
  })

  test('is read whole', () => {
    expect([...repository.keys()]).toEqual(expect.arrayContaining(['bramble', '.ci/run', 'scripts/tidy.test.ts']))
  })
})

describe('the rules', () => {
  test.for(Object.entries(RULES))('%s accepts good samples and finds each fault', ([, { rule, good, bad }]) => {
    for (const files of good) expect(rule(sample(files))).toEqual([])
    for (const [files, fault] of bad) expect(rule(sample(files))).toEqual([expect.stringMatching(fault)])
  })

  test('imports are read in every form', () => {
    const text = join(
      'im',
      "port a, { type B } from 'a'\nex",
      "port {\n  c,\n} from './c.ts'\nim",
      "port './d.ts'\nconst e = await im",
      "port('e')\ntype F = im",
      "port('f').G\n",
    )
    expect(importsOf(text).map(({ specifier, lazy }) => [specifier, lazy])).toEqual([
      ['a', false],
      ['./c.ts', false],
      ['./d.ts', false],
      ['e', true],
      ['f', true],
    ])
  })
})
