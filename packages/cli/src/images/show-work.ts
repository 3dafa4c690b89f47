import { stepProgress } from '../setup/progress.ts'
import { hasColor, isLive, safeLine } from '../terminal.ts'

/** How far an import or a build is, whoever tells it. */
export interface WorkProgress {
  readonly message: string
  /** 0 to 1; undefined when nobody knows. */
  readonly fraction?: number | undefined
}

/** Shows work on stderr while it runs: a line drawn over on a terminal, plain lines elsewhere. */
export const showWork = async <T>(
  title: string,
  work: (onProgress: (progress: WorkProgress) => void) => Promise<T>,
): Promise<T> => {
  const { stderr } = process
  const live = isLive(stderr)
  using shown = stepProgress({ stream: stderr, live, color: hasColor(stderr) })
  const began = performance.now()
  let last = ''
  shown.started('Image', { does: safeLine(title), run: async () => undefined })
  const result = await work(({ message, fraction }) => {
    const note = safeLine(message)
    shown.progress('Image', { note, fraction })
    if (!live && note !== last) stderr.write(`Image: ${note}\n`)
    last = note
  })
  shown.ended({ title: 'Image', state: 'done', does: title, tookMs: performance.now() - began })
  return result
}
