import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer } from 'node:net'

/**
 * Runs in the network namespace that plays the Internet, on the addresses of its arguments: TCP and UDP on one port that say
 * whom they see, and then echo. Prints the port. Ends with its standard input.
 */
const tcp = createServer((socket) => {
  socket.on('error', () => {})
  socket.write(`tcp from ${socket.remoteAddress} to ${socket.localAddress}\n`)
  socket.pipe(socket)
})
tcp.listen(0, '0.0.0.0', async () => {
  const { port } = tcp.address() as { port: number }
  for (const address of process.argv.slice(2)) {
    // A socket for each: an answer leaves with the address that was asked.
    const udp = createSocket('udp4', (data, from) => {
      if (data.length < 1000) udp.send(`udp from ${from.address}: ${data}`, from.port, from.address)
    })
    udp.bind(port, address)
    await once(udp, 'listening')
  }
  process.stdout.write(`${port}\n`)
})
process.stdin.resume().on('end', () => process.exit())
