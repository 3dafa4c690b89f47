import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

export interface Registry extends AsyncDisposable {
  /** `127.0.0.1:port`, plain HTTP. */
  readonly address: string
  /** Where it keeps its blobs. */
  readonly directory: string
}

/** A real registry (Debian's docker-registry) on a free port of the loopback interface. */
export const startRegistry = async (): Promise<Registry> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-registry-'))
  const config = {
    version: '0.1',
    log: { level: 'info' },
    storage: { filesystem: { rootdirectory: directory } },
    http: { addr: '127.0.0.1:0' },
  }
  await writeFile(join(directory, 'config.yml'), JSON.stringify(config))
  const child = spawn('docker-registry', ['serve', join(directory, 'config.yml')], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const exited = once(child, 'exit')
  const stop = async () => {
    child.kill('SIGKILL')
    await exited
    await rm(directory, { recursive: true, force: true })
  }
  const said: string[] = []
  const address = await new Promise<string>((resolve, reject) => {
    const lines = createInterface({ input: child.stderr })
    lines.on('line', (line) => {
      said.push(line)
      const found = /listening on (127\.0\.0\.1:\d+)/.exec(line)?.[1]
      if (found) resolve(found)
    })
    lines.on('close', () => reject(new Error(`docker-registry did not start: ${said.join('\n')}`)))
  }).catch(async (error) => {
    await stop()
    throw error
  })
  return { address, directory, [Symbol.asyncDispose]: stop }
}
