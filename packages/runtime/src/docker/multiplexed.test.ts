import { Duplex, PassThrough } from 'node:stream'
import { expect, test } from 'vitest'
import { demultiplex } from './multiplexed.ts'

const frame = (stream: number, payload: Uint8Array): Buffer => {
  const header = Buffer.alloc(8)
  header[0] = stream
  header.writeUInt32BE(payload.length, 4)
  return Buffer.concat([header, payload])
}

const attachedTo = (engine: PassThrough, host = new PassThrough()) =>
  demultiplex(Duplex.from({ readable: engine, writable: host }))

test('frames cut anywhere come out whole, standard error apart', async () => {
  const payloads = [Buffer.from('one'), Buffer.alloc(0), Buffer.alloc(70_000, 'x'), Buffer.from('four')]
  const bytes = Buffer.concat([...payloads.map((payload) => frame(1, payload)), frame(2, Buffer.from('a warning\n'))])
  for (const step of [1, 7, 8, 9, 65_536]) {
    const engine = new PassThrough()
    const { stream, stderr } = attachedTo(engine)
    const read = stream.toArray()
    for (let at = 0; at < bytes.length; at += step) engine.write(bytes.subarray(at, at + step))
    engine.end()
    expect(Buffer.concat(await read).equals(Buffer.concat(payloads))).toBe(true)
    expect(stderr()).toBe('a warning')
  }
})

test('standard error is kept in part, whatever comes', async () => {
  const engine = new PassThrough()
  const { stream, stderr } = attachedTo(engine)
  const read = stream.toArray()
  for (let n = 0; n < 64; n++) engine.write(frame(2, Buffer.alloc(4096, 'e')))
  engine.end(frame(2, Buffer.from('last words')))
  await read
  expect(stderr().length).toBe(4096)
  expect(stderr().endsWith('last words')).toBe(true)
})

test('a reader that stalls stalls the engine', async () => {
  let taken = 0
  const block = frame(1, Buffer.alloc(65_528, 'x'))
  const engine = new Duplex({
    read() {
      taken++
      this.push(block)
    },
    write: (_data, _encoding, done) => done(),
  })
  const { stream } = demultiplex(engine)
  await new Promise((resolve) => stream.once('readable', resolve))
  for (let n = 0; n < 100; n++) await new Promise(setImmediate)
  expect(taken).toBeLessThan(16)
  stream.destroy()
})
