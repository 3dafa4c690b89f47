import { Terminal as Emulator } from '@xterm/headless'

/** A terminal as a person has it before them: an emulator that shows what comes, answers what programs ask it, and sends keys. */
export interface Screen extends Disposable {
  /** What a program wrote. */
  write(bytes: Uint8Array): void
  type(keys: string): void
  /** The next size; the emulator has it before the program hears of it. */
  resize(cols: number, rows: number): void
  /** The lines that are to be seen, without spaces at their ends. */
  lines(): string[]
  /** Resolves when the screen is as `looks` wants it; rejects with the screen when it is not in time. */
  until(looks: (lines: string[]) => boolean): Promise<void>
  /** Of the first cell of the first place where `text` is shown. */
  colorOf(text: string): number | undefined
  /** Whether a program has the whole screen for itself (the alternate buffer). */
  readonly isTaken: boolean
}

const PATIENCE_MS = 20_000

export const openScreen = (
  { cols, rows }: { cols: number; rows: number },
  { send, resized }: { send: (bytes: string) => void; resized: (cols: number, rows: number) => void },
): Screen => {
  const emulator = new Emulator({ cols, rows, allowProposedApi: true, scrollback: 0 })
  emulator.onData(send)
  const asking = new Set<() => void>()
  const lines = (): string[] =>
    Array.from({ length: emulator.rows }, (_, row) =>
      (emulator.buffer.active.getLine(row)?.translateToString(true) ?? '').trimEnd(),
    )
  return {
    lines,
    write: (bytes) =>
      emulator.write(bytes, () => {
        for (const ask of [...asking]) ask()
      }),
    type: send,
    resize(columns, height) {
      emulator.resize(columns, height)
      resized(columns, height)
    },
    until: (looks) =>
      new Promise((resolve, reject) => {
        const end = (settle: () => void): void => {
          asking.delete(ask)
          clearTimeout(timer)
          settle()
        }
        const ask = (): void => {
          if (looks(lines())) end(resolve)
        }
        const timer = setTimeout(
          () => end(() => reject(new Error(`the screen is\n${lines().join('\n')}\nfor ${looks}`))),
          PATIENCE_MS,
        )
        asking.add(ask)
        ask()
      }),
    colorOf(text) {
      const row = lines().findIndex((line) => line.includes(text))
      const cell = emulator.buffer.active.getLine(row)?.getCell(lines()[row]?.indexOf(text) ?? 0)
      return cell?.isFgDefault() === false ? cell.getFgColor() : undefined
    },
    get isTaken() {
      return emulator.buffer.active.type === 'alternate'
    },
    [Symbol.dispose]: () => emulator.dispose(),
  }
}
