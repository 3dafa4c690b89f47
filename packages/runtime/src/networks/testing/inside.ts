import { type ChildProcess, spawn } from 'node:child_process'
import type { SandboxNetwork } from '../networks.ts'

/** A process in the namespaces of a network, as their root with every capability: more than any sandbox has. */
export const spawnInside = (network: SandboxNetwork, argv: readonly string[]): ChildProcess =>
  spawn('nsenter', [`--user=${network.userNamespacePath}`, `--net=${network.networkNamespacePath}`, '--', ...argv], {
    stdio: ['pipe', 'pipe', 'pipe'],
  })

/** Runs it with `input` to its end. */
export const runInside = async (
  network: SandboxNetwork,
  argv: readonly string[],
  input = '',
): Promise<{ code: number | null; output: string; complaint: string }> => {
  const child = spawnInside(network, argv)
  let output = ''
  let complaint = ''
  child.stdout?.on('data', (chunk: Buffer) => {
    output += chunk
  })
  child.stderr?.on('data', (chunk: Buffer) => {
    complaint += chunk
  })
  child.stdin?.on('error', () => {})
  child.stdin?.end(input)
  const { promise, resolve, reject } = Promise.withResolvers<number | null>()
  child.on('error', reject)
  child.on('close', resolve)
  return { code: await promise, output, complaint }
}

/** A program inside that connects, sends `hello`, prints what comes back at once, and gives up after a second. */
const CLIENT = `
const [kind, address, port, source] = process.argv.slice(1)
const done = (text) => { process.stdout.write(text); process.exit() }
setTimeout(() => done(''), 1000)
if (kind === 'udp') {
  const socket = require('dgram').createSocket('udp4', (data) => done(String(data)))
  socket.on('error', () => done(''))
  socket.bind(0, source || undefined, () => socket.send('hello', Number(port), address, (error) => error && done('')))
} else {
  const socket = require('net').connect({ host: address, port: Number(port), ...(source && { localAddress: source }) })
  socket.on('error', () => done(''))
  socket.on('data', (data) => done(String(data)))
}`

/** What a server answered, or nothing. */
export const reach = async (
  network: SandboxNetwork,
  address: string,
  port: number,
  options: { kind?: 'tcp' | 'udp'; source?: string } = {},
): Promise<string> => {
  const { kind = 'tcp', source = '' } = options
  return (await runInside(network, [process.execPath, '-e', CLIENT, kind, address, String(port), source])).output
}
