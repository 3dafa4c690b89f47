import { WebSocket } from 'ws'

/**
 * Starts a command that floods its output on an instance's stream, and reads all of it, in a process of its own, so that
 * it takes no time from who measures. `flood-reader.ts URL KEY`; prints the bytes it has read, once a second, one number a
 * line.
 */
const [url = '', key = ''] = process.argv.slice(2)
const COMMAND = 'yes "a line of output, as a build or a test prints it"'
let bytes = 0
const socket = new WebSocket(url, { headers: { authorization: `Bearer ${key}` }, perMessageDeflate: false })
socket.on('open', () => socket.send(JSON.stringify({ type: 'exec', id: 'flood', command: COMMAND, stdin: false })))
socket.on('message', (data) => {
  if (bytes === 0) setInterval(() => console.log(bytes), 1000)
  bytes += (data as Buffer).length
})
socket.on('close', () => process.exit(1))
