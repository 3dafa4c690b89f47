import { Duplex } from 'node:stream'
import type { CallOptions } from '../call.ts'
import type { Instance } from '../instances/instance.ts'

/** A TCP connection to a port in an instance, as a stream of Node: for `http.request`'s `createConnection`, a database client, … */
export const tunnelDuplex = async (
  instance: Pick<Instance, 'tunnel'>,
  port: number,
  options: CallOptions = {},
): Promise<Duplex> => {
  const tunnel = await instance.tunnel(port, options)
  const reader = tunnel.readable.getReader()
  const writer = tunnel.writable.getWriter()
  writer.closed.catch(() => undefined)
  return new Duplex({
    read() {
      reader.read().then(
        ({ value }) => this.push(value ?? null),
        (error: Error) => this.destroy(error),
      )
    },
    write(chunk: Buffer, _encoding, done) {
      writer.write(chunk).then(() => done(), done)
    },
    final(done) {
      writer.close().then(() => done(), done)
    },
    destroy(error, done) {
      tunnel.close()
      done(error)
    },
  })
}
