/** The part of the shell's grammar (POSIX, 2.10) that the fake sandbox knows. */
export type Command =
  | { type: 'simple'; assignments: { name: string; value: Word }[]; words: Word[]; redirects: Redirect[] }
  | { type: 'pipeline'; stages: Command[]; negated: boolean }
  | { type: 'and' | 'or'; left: Command; right: Command }
  | { type: 'list'; items: { command: Command; background: boolean }[] }
  | { type: 'group'; body: Command; subshell: boolean; redirects: Redirect[] }
  | { type: 'if'; condition: Command; then: Command; otherwise?: Command; redirects: Redirect[] }
  | { type: 'loop'; until: boolean; condition: Command; body: Command; redirects: Redirect[] }
  | { type: 'for'; name: string; words: Word[]; body: Command; redirects: Redirect[] }

export type Word = Part[]
export type Part =
  | { type: 'text'; text: string; quoted: boolean }
  | { type: 'variable'; name: string; fallback?: Word; quoted: boolean }
  | { type: 'output'; command: Command; quoted: boolean }

export type Redirect = { fd: number; mode: '<' | '>' | '>>'; target: Word } | { fd: number; mode: '&'; target: Word }

export class ShellSyntaxError extends Error {
  override readonly name = 'ShellSyntaxError'
}

const RESERVED = new Set(['then', 'else', 'elif', 'fi', 'do', 'done', '}', 'esac'])
const NAME = /^[A-Za-z_][A-Za-z0-9_]*/

/** Parses a script, or throws `ShellSyntaxError`. */
export const parseShell = (source: string): Command => {
  const cursor = { at: 0 }
  const command = parseList(source, cursor)
  skip(source, cursor, true)
  if (cursor.at < source.length) throw unexpected(source, cursor)
  return command
}

interface Cursor {
  at: number
}

const unexpected = (source: string, cursor: Cursor) =>
  new ShellSyntaxError(`syntax error near '${source.slice(cursor.at, cursor.at + 10) || 'end of file'}'`)

const skip = (source: string, cursor: Cursor, lines: boolean): void => {
  for (;;) {
    const char = source[cursor.at]
    if (char === ' ' || char === '\t' || (lines && char === '\n')) cursor.at++
    else if (char === '\\' && source[cursor.at + 1] === '\n') cursor.at += 2
    else if (char === '#') while (cursor.at < source.length && source[cursor.at] !== '\n') cursor.at++
    else return
  }
}

const take = (source: string, cursor: Cursor, text: string): boolean => {
  skip(source, cursor, false)
  if (!source.startsWith(text, cursor.at)) return false
  cursor.at += text.length
  return true
}

/** The reserved word at the cursor, which stays where it is. */
const peekWord = (source: string, cursor: Cursor, lines = true): string => {
  skip(source, cursor, lines)
  return /^(?:[a-z]+|[{}!])(?=[\s;&|()<>]|$)/.exec(source.slice(cursor.at, cursor.at + 16))?.[0] ?? ''
}

const expectWord = (source: string, cursor: Cursor, word: string): void => {
  if (peekWord(source, cursor) !== word) throw unexpected(source, cursor)
  cursor.at += word.length
}

const parseList = (source: string, cursor: Cursor): Command => {
  const items: { command: Command; background: boolean }[] = []
  for (;;) {
    const word = peekWord(source, cursor)
    if (cursor.at >= source.length || source[cursor.at] === ')' || RESERVED.has(word)) break
    const command = parseAndOr(source, cursor)
    skip(source, cursor, false)
    const background = source[cursor.at] === '&'
    items.push({ command, background })
    if (background || source[cursor.at] === ';' || source[cursor.at] === '\n') cursor.at++
    else break
  }
  return { type: 'list', items }
}

const parseAndOr = (source: string, cursor: Cursor): Command => {
  let left = parsePipeline(source, cursor)
  for (;;) {
    const type = take(source, cursor, '&&') ? 'and' : take(source, cursor, '||') ? 'or' : undefined
    if (!type) return left
    skip(source, cursor, true)
    left = { type, left, right: parsePipeline(source, cursor) }
  }
}

const parsePipeline = (source: string, cursor: Cursor): Command => {
  const negated = peekWord(source, cursor) === '!'
  if (negated) cursor.at++
  const stages = [parseCommand(source, cursor)]
  for (;;) {
    skip(source, cursor, false)
    if (source[cursor.at] !== '|' || source[cursor.at + 1] === '|') break
    cursor.at++
    skip(source, cursor, true)
    stages.push(parseCommand(source, cursor))
  }
  const [only] = stages
  return stages.length === 1 && only && !negated ? only : { type: 'pipeline', stages, negated }
}

const parseCommand = (source: string, cursor: Cursor): Command => {
  const word = peekWord(source, cursor, false)
  const compound = parseCompound(source, cursor, word)
  if (compound) {
    for (let next = parseRedirect(source, cursor); next; next = parseRedirect(source, cursor))
      compound.redirects.push(next)
    return compound
  }
  if (word === 'case' || word === 'function' || RESERVED.has(word)) throw unexpected(source, cursor)
  return parseSimple(source, cursor)
}

const parseCompound = (source: string, cursor: Cursor, word: string) => {
  if (source[cursor.at] === '(') {
    cursor.at++
    const body = parseList(source, cursor)
    if (source[cursor.at++] !== ')') throw unexpected(source, cursor)
    return { type: 'group' as const, body, subshell: true, redirects: [] as Redirect[] }
  }
  switch (word) {
    case '{': {
      cursor.at++
      const body = parseList(source, cursor)
      expectWord(source, cursor, '}')
      return { type: 'group' as const, body, subshell: false, redirects: [] as Redirect[] }
    }
    case 'if':
      cursor.at += 2
      return parseIf(source, cursor)
    case 'while':
    case 'until': {
      cursor.at += 5
      const condition = parseList(source, cursor)
      const body = parseBody(source, cursor)
      return { type: 'loop' as const, until: word === 'until', condition, body, redirects: [] as Redirect[] }
    }
    case 'for': {
      cursor.at += 3
      skip(source, cursor, false)
      const name = NAME.exec(source.slice(cursor.at, cursor.at + 256))?.[0] ?? ''
      cursor.at += name.length
      expectWord(source, cursor, 'in')
      const words: Word[] = []
      for (let next = parseWord(source, cursor); next; next = parseWord(source, cursor)) words.push(next)
      take(source, cursor, ';')
      return { type: 'for' as const, name, words, body: parseBody(source, cursor), redirects: [] as Redirect[] }
    }
    default:
      return undefined
  }
}

const parseBody = (source: string, cursor: Cursor): Command => {
  expectWord(source, cursor, 'do')
  const body = parseList(source, cursor)
  expectWord(source, cursor, 'done')
  return body
}

const parseIf = (source: string, cursor: Cursor): Extract<Command, { type: 'if' }> => {
  const condition = parseList(source, cursor)
  expectWord(source, cursor, 'then')
  const then = parseList(source, cursor)
  const word = peekWord(source, cursor)
  cursor.at += word.length
  if (word === 'elif') return { type: 'if', condition, then, otherwise: parseIf(source, cursor), redirects: [] }
  if (word === 'fi') return { type: 'if', condition, then, redirects: [] }
  if (word !== 'else') throw unexpected(source, cursor)
  const otherwise = parseList(source, cursor)
  expectWord(source, cursor, 'fi')
  return { type: 'if', condition, then, otherwise, redirects: [] }
}

const parseSimple = (source: string, cursor: Cursor): Command => {
  const command = {
    type: 'simple' as const,
    assignments: [] as { name: string; value: Word }[],
    words: [] as Word[],
    redirects: [] as Redirect[],
  }
  for (;;) {
    const redirect = parseRedirect(source, cursor)
    if (redirect) {
      command.redirects.push(redirect)
      continue
    }
    const assigned = command.words.length === 0 && /^([A-Za-z_]\w*)=/.exec(source.slice(cursor.at, cursor.at + 256))
    if (assigned) {
      cursor.at += assigned[0].length
      const follows = !/[\s;&|()<>]/.test(source[cursor.at] ?? ' ')
      command.assignments.push({ name: assigned[1] ?? '', value: (follows && parseWord(source, cursor)) || [] })
      continue
    }
    const word = parseWord(source, cursor)
    if (!word) break
    command.words.push(word)
  }
  const empty = command.words.length + command.assignments.length + command.redirects.length === 0
  if (empty || source[cursor.at] === '(') throw unexpected(source, cursor)
  return command
}

const parseRedirect = (source: string, cursor: Cursor): Redirect | undefined => {
  skip(source, cursor, false)
  const found = /^([0-9]?)(>>|>&|<&|>\||<<|>|<)/.exec(source.slice(cursor.at, cursor.at + 3))
  if (!found) return undefined
  const [whole, digit = '', operator = ''] = found
  if (operator === '<<') throw new ShellSyntaxError('the fake shell has no here-documents')
  cursor.at += whole.length
  const target = parseWord(source, cursor)
  if (!target) throw unexpected(source, cursor)
  const fd = digit !== '' ? Number(digit) : operator.startsWith('<') ? 0 : 1
  if (operator.endsWith('&')) return { fd, mode: '&', target }
  return { fd, mode: operator === '>>' ? '>>' : operator === '<' ? '<' : '>', target }
}

const parseWord = (source: string, cursor: Cursor): Word | undefined => {
  skip(source, cursor, false)
  const parts: Part[] = []
  for (;;) {
    const char = source[cursor.at]
    if (char === undefined || /[\s;&|()<>]/.test(char)) return parts.length > 0 ? parts : undefined
    if (char === "'") {
      const end = source.indexOf("'", cursor.at + 1)
      if (end < 0) throw new ShellSyntaxError('unterminated quoted string')
      parts.push({ type: 'text', text: source.slice(cursor.at + 1, end), quoted: true })
      cursor.at = end + 1
    } else if (char === '"') {
      cursor.at++
      parts.push({ type: 'text', text: '', quoted: true })
      while (source[cursor.at] !== '"') {
        if (cursor.at >= source.length) throw new ShellSyntaxError('unterminated quoted string')
        parts.push(parsePart(source, cursor, true))
      }
      cursor.at++
    } else parts.push(parsePart(source, cursor, false))
  }
}

const parsePart = (source: string, cursor: Cursor, quoted: boolean): Part => {
  const char = source[cursor.at]
  if (char === '$') {
    const expansion = parseDollar(source, cursor, quoted)
    if (expansion) return expansion
  }
  if (char === '\\') {
    const next = source[cursor.at + 1] ?? ''
    cursor.at += 2
    if (next === '\n') return { type: 'text', text: '', quoted }
    return { type: 'text', text: quoted && !/[$`"\\]/.test(next) ? `\\${next}` : next, quoted: true }
  }
  if (char === '`') throw new ShellSyntaxError('the fake shell has no backquotes')
  const text = (quoted ? /^[^"$\\`]+/ : /^[^\s;&|()<>'"$\\`]+/).exec(source.slice(cursor.at))?.[0] ?? char ?? ''
  cursor.at += text.length
  return { type: 'text', text, quoted }
}

const parseDollar = (source: string, cursor: Cursor, quoted: boolean): Part | undefined => {
  const rest = source.slice(cursor.at + 1, cursor.at + 258)
  if (rest.startsWith('((')) throw new ShellSyntaxError('the fake shell has no arithmetic')
  if (rest.startsWith('(')) {
    cursor.at += 2
    const command = parseList(source, cursor)
    if (source[cursor.at++] !== ')') throw unexpected(source, cursor)
    return { type: 'output', command, quoted }
  }
  const braced = /^\{([A-Za-z_]\w*|[0-9?#$!@*])(:-)?/.exec(rest)
  if (braced) {
    cursor.at += 1 + braced[0].length
    const end = source.indexOf('}', cursor.at)
    if (end < 0) throw unexpected(source, cursor)
    const inner = source.slice(cursor.at, end)
    const fallback: Word = []
    for (const at = { at: 0 }; at.at < inner.length; ) fallback.push(parsePart(inner, at, true))
    cursor.at = end + 1
    return { type: 'variable', name: braced[1] ?? '', ...(braced[2] && { fallback }), quoted }
  }
  const name = (NAME.exec(rest) ?? /^[0-9?#$!@*]/.exec(rest))?.[0]
  if (name === undefined) return undefined
  cursor.at += 1 + name.length
  return { type: 'variable', name, quoted }
}
