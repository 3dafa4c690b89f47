/**
 * What happens in a sandbox besides its files: processes that start and end, ports that are listened on. A program of the
 * agent looks at /proc while somebody asks, every `intervalMs`: what lives shorter may be missed.
 */
export type SandboxChange =
  | {
      readonly type: 'process'
      readonly event: 'start' | 'exit'
      readonly pid: number
      readonly parentPid: number
      readonly command: string
    }
  | {
      readonly type: 'port'
      readonly event: 'open' | 'close'
      readonly port: number
      readonly address: string
      readonly pid?: number
      readonly command?: string
    }
