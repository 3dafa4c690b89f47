import { fileSink, fileSource } from './devices.ts'
import { SystemError } from './file-system.ts'
import type { Source } from './pipe.ts'
import type { FakeProcess, Program } from './process.ts'
import { again, type Continuation } from './world.ts'

/** Options of the short kind, and the words that follow them. */
export const operands = (process: FakeProcess): string[] =>
  process.argv.slice(1).filter((word) => !/^-[A-Za-z]/.test(word))
export const hasFlag = (process: FakeProcess, flag: string): boolean =>
  process.argv.slice(1).some((word) => /^-[A-Za-z]/.test(word) && word.includes(flag))

/** The bytes of the operands, or of standard input where there is none. */
export async function* inputs(process: FakeProcess, paths: readonly string[]): AsyncGenerator<Buffer> {
  const sources: Source[] =
    paths.length === 0
      ? [process.stdin]
      : paths.map((path) =>
          path === '-' ? process.stdin : fileSource(process.machine.files.read(process.path(path), process.user)),
        )
  for (const source of sources)
    for (let chunk = await source.read(process.signal); chunk; chunk = await source.read(process.signal)) yield chunk
}

const allInput = async (process: FakeProcess, paths: readonly string[]): Promise<Buffer> => {
  const chunks: Buffer[] = []
  for await (const chunk of inputs(process, paths)) chunks.push(chunk)
  return Buffer.concat(chunks)
}

const UNITS: Record<string, number> = { '': 1, k: 1024, K: 1024, M: 1024 ** 2, G: 1024 ** 3 }
const size = (text: string): number => {
  const [, digits = '', unit = ''] = /^(\d+)([kKMG]?)$/.exec(text) ?? []
  if (digits === '') throw new SystemError('EINVAL')
  return Number(digits) * (UNITS[unit] ?? 1)
}

const ESCAPES: Record<string, string> = { n: '\n', t: '\t', r: '\r', '\\': '\\', a: '\x07', '"': '"' }
/** Backslash escapes, as bytes: `\xHH` and `\NNN` need not be text. */
const unescaped = (text: string): Buffer =>
  Buffer.from(
    Buffer.from(text)
      .toString('latin1')
      .replace(/\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)/g, (whole, code: string) => {
        if (/^x[0-9a-f]/i.test(code)) return String.fromCharCode(Number.parseInt(code.slice(1), 16))
        if (/^[0-7]/.test(code)) return String.fromCharCode(Number.parseInt(code, 8) & 255)
        return ESCAPES[code] ?? whole
      }),
    'latin1',
  )

export const printf: Program = async (process) => {
  const [format = '', ...values] = process.argv.slice(1)
  const out: Buffer[] = []
  do {
    for (const piece of format.split(/(%[sdxob%])/)) {
      if (piece === '%%') out.push(Buffer.from('%'))
      else if (piece === '%s') out.push(Buffer.from(values.shift() ?? ''))
      else if (piece === '%b') out.push(unescaped(values.shift() ?? ''))
      else if (/^%[dxo]$/.test(piece))
        out.push(Buffer.from(Number(values.shift() ?? 0).toString({ d: 10, x: 16, o: 8 }[piece[1] ?? 'd'])))
      else out.push(unescaped(piece))
    }
  } while (values.length > 0 && /%[sdxob]/.test(format))
  await process.parked(again(printf), () => process.write('stdout', Buffer.concat(out)))
  return 0
}

export const echo: Program = async (process) => {
  const words = process.argv.slice(1)
  const bare = words[0] === '-n' || words[0] === '-ne'
  const escaped = words[0] === '-e' || words[0] === '-ne'
  const text = `${(bare || escaped ? words.slice(1) : words).join(' ')}${bare ? '' : '\n'}`
  await process.parked(again(echo), () => process.write('stdout', escaped ? unescaped(text) : Buffer.from(text)))
  return 0
}

export const cat: Program = async (process) => {
  if (operands(process).length === 0) return passing().run(process)
  for await (const chunk of inputs(process, operands(process))) await process.write('stdout', chunk)
  return 0
}

/** From standard input to standard output; `read` was read already. */
const passing = (read?: Buffer): Continuation => {
  let chunk = read
  const pass = async (process: FakeProcess): Promise<number> => {
    for (;;) {
      chunk ??= await process.read()
      if (!chunk) return 0
      await process.write('stdout', chunk)
      chunk = undefined
    }
  }
  const continuation: Continuation = {
    copy: () => passing(chunk),
    run: (process) => process.parked(continuation, () => pass(process)),
  }
  return continuation
}

export const head: Program = async (process) => {
  const [, option = '', value = ''] = /^-([cn])?(\d.*)?$/.exec(process.argv[1] ?? '') ?? []
  const amount = value || (process.argv[1]?.startsWith('-') ? (process.argv[2] ?? '') : '10')
  const counted = process.argv[1]?.startsWith('-') ? (value ? 2 : 3) : 1
  let left = size(amount)
  if (left === 0) return 0
  for await (const chunk of inputs(process, process.argv.slice(counted))) {
    let end = chunk.length
    if (option === 'c') end = Math.min(left, chunk.length)
    else for (let at = 0, lines = 0; at < chunk.length; at++) if (chunk[at] === 10 && ++lines === left) end = at + 1
    await process.write('stdout', chunk.subarray(0, end))
    left -= option === 'c' ? end : chunk.subarray(0, end).filter((byte) => byte === 10).length
    if (left <= 0) break
  }
  return 0
}

export const tail: Program = async (process) => {
  const lines = Number(/^-n?(\d+)$/.exec(process.argv[1] ?? '')?.[1] ?? 10)
  const text = (
    await allInput(
      process,
      operands(process).filter((word) => !/^-\d/.test(word)),
    )
  ).toString('latin1')
  const parts = text.split(/(?<=\n)/)
  await process.write('stdout', Buffer.from(parts.slice(-lines).join(''), 'latin1'))
  return 0
}

export const yes: Program = async (process) => {
  const line = Buffer.from(`${process.argv.slice(1).join(' ') || 'y'}\n`)
  const block = Buffer.alloc(Math.ceil(65_536 / line.length) * line.length, line)
  return process.parked(again(yes), async () => {
    for (;;) await process.write('stdout', block)
  })
}

export const wc: Program = async (process) => {
  let [bytes, lines] = [0, 0]
  for await (const chunk of inputs(process, operands(process))) {
    bytes += chunk.length
    for (const byte of chunk) if (byte === 10) lines++
  }
  await process.print('stdout', `${hasFlag(process, 'l') ? lines : bytes}\n`)
  return 0
}

/** `if=`, `of=`, `bs=` and `count=`: whole blocks of a source that gives any number of bytes at once. */
export const dd: Program = async (process) => {
  const option = (name: string) => process.argv.find((word) => word.startsWith(`${name}=`))?.slice(name.length + 1)
  const [from, to, count] = [option('if'), option('of'), option('count')]
  let left = count === undefined ? Number.POSITIVE_INFINITY : Number(count) * size(option('bs') ?? '512')
  const sink = to === undefined ? undefined : fileSink(process.machine, process.path(to), process.user, true)
  for await (const chunk of inputs(process, from === undefined ? [] : [from])) {
    const taken = chunk.subarray(0, left)
    if (sink) await sink.write(taken, process.signal)
    else await process.write('stdout', taken)
    left -= taken.length
    if (left <= 0) break
  }
  return 0
}
