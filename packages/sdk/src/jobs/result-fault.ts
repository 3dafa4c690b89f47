import { sha256Hex } from '@bramble/identity'
import { type Job, type JobResult, type ResultContent, resultHash } from '@bramble/protocol'
import { outputBytes } from '../bytes.ts'

/** What is wrong with bytes that came with a result; those in a blob have its name, by which they are checked when they are read. */
const faultOfContent = (name: string, content: ResultContent): string | undefined => {
  if ('blob' in content)
    return content.blob === content.sha256 ? undefined : `${name} is another blob than its hash says`
  const bytes = outputBytes(content.content, content.encoding)
  return bytes.length === content.sizeBytes && sha256Hex(bytes) === content.sha256
    ? undefined
    : `${name} does not have the hash that it came with`
}

/** The result hash of what a job shows as its result. */
const hashOf = ({ status, exitCode, signal, stdout, stderr, outputs }: JobResult): string => {
  const digests = Object.entries(outputs).map(([path, file]) => [path, 'error' in file ? file.error : file.sha256])
  return resultHash(
    {
      status,
      exitCode,
      signal,
      stdoutSha256: stdout.sha256,
      stderrSha256: stderr.sha256,
      outputs: Object.fromEntries(digests),
    },
    sha256Hex,
  )
}

/** Why the result that a job shows is not the one with that hash; undefined where it is. */
export const faultOfResult = ({ result, resultHash: claimed }: Job, verdict: string): string | undefined => {
  if (result === undefined) return 'the job shows no result'
  if (claimed !== undefined && claimed.replace(/^0x/, '') !== verdict)
    return `the job names the result ${claimed}, the verdict ${verdict}`
  const contents: [string, ResultContent][] = [
    ['stdout', result.stdout],
    ['stderr', result.stderr],
  ]
  for (const [path, file] of Object.entries(result.outputs)) if (!('error' in file)) contents.push([path, file])
  for (const [name, content] of contents) {
    const fault = faultOfContent(name, content)
    if (fault !== undefined) return fault
  }
  const hash = hashOf(result)
  return hash === verdict ? undefined : `the result has the hash ${hash}, the verdict is of ${verdict}`
}
