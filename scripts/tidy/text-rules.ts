import { posix } from 'node:path'
import { findings, type Rule } from './repository.ts'

const everything = (): boolean => true

export const maxFileLines = 500

/** A file that is longer is two files. */
export const filesAreShort: Rule = (repository) =>
  [...repository]
    .map(([path, text]) => ({ path, lines: text.split('\n').length - 1 }))
    .filter(({ lines }) => lines > maxFileLines)
    .map(({ path, lines }) => `${path}:${lines} has ${lines} lines, more than ${maxFileLines}`)

/** Names that tools or custom fix: documents in capitals at the root of a folder, make files. */
const CUSTOMARY =
  /^(README|ARCHITECTURE|CONTRIBUTING|SPECIFICATION|SECURITY|FRAMES)\.md$|^(Makefile|Dockerfile)$|^(biome|package|tsconfig)\.json$/
const KEBAB = /^\.?[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9-]+)*$/

/** Files and folders are named in kebab-case. */
export const namesAreKebabCase: Rule = (repository) =>
  [...repository.keys()].flatMap((path) => {
    const wrong = path.split('/').find((part) => !KEBAB.test(part) && !CUSTOMARY.test(part))
    return wrong === undefined ? [] : [`${path}:1 ${wrong} is not kebab-case`]
  })

/** Words are put together here, so that this file does not hold what it forbids. */
const word = (...parts: string[]): string => parts.join('')

const HOST_PATHS = new RegExp(
  [
    word('/wo', 'rk/(main|shared|\\.)'),
    word('/tmp/br', 'ief'),
    word('/Us', 'ers/[a-z]'),
    word('[a-z]:\\\\Us', 'ers'),
  ].join('|'),
  'gi',
)

/** Nothing depends on, or tells of, one machine. */
export const noHostPaths: Rule = (repository) =>
  findings(repository, everything, HOST_PATHS, ([match]) => `${match}… is a path of one machine`)

const SHOUTED = [word('TO', 'DO'), word('FIX', 'ME'), word('HA', 'CK'), word('XX', 'X')]
const SAID = [
  word('as an A', 'I'),
  word('language mod', 'el'),
  word('sub', 'agents?'),
  word('helper sess', 'ions?'),
  word('the inte', 'grator'),
  word('registry\\.npm', 'js\\.org'),
  word('blaz', 'ing(ly)?'),
  word('lorem ip', 'sum'),
]
const FORBIDDEN = new RegExp(`\\b(?:${SHOUTED.join('|')}|(?i:${SAID.join('|')}))\\b`, 'g')

/** Notes to oneself belong in an issue, praise nowhere, and the host of a registry in its client's configuration. */
export const noForbiddenWords: Rule = (repository) =>
  findings(repository, everything, FORBIDDEN, ([match]) => `“${match}” does not belong in the repository`)

const SUPPRESSIONS = new RegExp(
  `(${word('biome', '-ignore')}[a-z-]*|${word('@ts', '-')}(?:expect-error|ignore|nocheck)|${word('eslint', '-disable')}\\S*|${word('NO', 'LINT')}\\S*)(.*)`,
  'g',
)
const minReasonChars = 8

/** Whoever silences a tool says why, in place; what silences a whole file is not there at all. */
export const suppressionsHaveReasons: Rule = (repository) =>
  findings(
    repository,
    (path) => /\.(ts|c|h|sh)$/.test(path),
    SUPPRESSIONS,
    ([, kind = '', rest = '']) => {
      if (/nocheck|ignore-all|ts-ignore|eslint/.test(kind)) return `${kind} is not used here`
      const reason = kind.startsWith('biome') ? (rest.split(/:\s/, 2)[1] ?? '') : rest
      return reason.replace(/\*\/.*$/, '').trim().length >= minReasonChars ? undefined : `${kind} has no reason`
    },
  )

const LINK = /(?<!!)\[[^\]\n]*\]\(([^)\s]+)(?:\s+"[^"]*")?\)/g

/** The anchors that a Markdown renderer makes of the headings of a document. */
const anchorsOf = (text: string): Set<string> =>
  new Set(
    [...text.matchAll(/^#{1,6} (.+)$/gm)].map(([, heading = '']) =>
      heading
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, '')
        .trim()
        .replaceAll(' ', '-'),
    ),
  )

/** Every link of a document to a file, a folder or a heading of this repository leads there. */
export const linksResolve: Rule = (repository) => {
  const folders = new Set(
    [...repository.keys()].flatMap((path) => path.split('/').map((_, i, parts) => parts.slice(0, i).join('/'))),
  )
  const faults: string[] = []
  for (const [path, text] of repository) {
    if (!path.endsWith('.md')) continue
    faults.push(
      ...findings(new Map([[path, text]]), everything, LINK, ([, target = '']) => {
        if (/^[a-z]+:/.test(target)) return undefined
        const [file = '', anchor] = target.split('#')
        const resolved = file === '' ? path : posix.normalize(posix.join(posix.dirname(path), file)).replace(/\/$/, '')
        const isLicense = resolved === 'LICENSE'
        if (!repository.has(resolved) && !folders.has(resolved) && !isLicense) return `${target} leads nowhere`
        if (anchor !== undefined && !anchorsOf(repository.get(resolved) ?? '').has(anchor))
          return `${target}: there is no such heading`
        return undefined
      }),
    )
  }
  return faults
}
