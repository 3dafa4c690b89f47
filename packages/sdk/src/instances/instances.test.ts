import { once } from 'node:events'
import { createServer } from 'node:http'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { brittleWay, type InstanceNode, openInstanceNode } from '../../test/instance-node.ts'
import { Bramble, CommandFailedError, type Instance, type Terminal } from '../index.ts'
import { forwardPort } from '../node/index.ts'

const opened = await openInstanceNode()

describe.skipIf('skip' in opened)(`instances${'skip' in opened ? `: ${opened.skip}` : ''}`, () => {
  const node = opened as InstanceNode
  let bramble: Bramble
  let box: Instance

  beforeAll(async () => {
    bramble = new Bramble({ url: node.url, apiKey: node.key })
    box = await bramble.instances.start({ name: 'box', memoryMb: 128, labels: { suite: 'sdk' }, env: { FROM: 'spec' } })
  })
  afterAll(() => node[Symbol.asyncDispose]())

  describe('a life', () => {
    test('goes from start to delete, by id and by name', async () => {
      const other = await bramble.instances.start({ name: 'other', ttlMs: 600_000 })
      expect(other).toMatchObject({ name: 'other', status: 'running' })
      await other.files.write('/kept', 'kept')
      expect((await other.pause()).status).toBe('paused')
      expect((await bramble.instances.resume('other')).status).toBe('running')
      expect((await other.stop()).status).toBe('stopped')
      await expect(other.exec('true')).rejects.toMatchObject({ code: 'instance_stopped' })
      expect((await bramble.instances.start('other')).id).toBe(other.id)
      expect(await other.files.readText('/kept')).toBe('kept')
      expect((await other.extend(null)).info.expiresAt).toBe(null)
      await bramble.instances.delete('other')
      await expect(other.refresh()).rejects.toMatchObject({ code: 'not_found' })
    })

    test('await using deletes what start made, and nothing else', async () => {
      let id: string
      {
        await using mine = await bramble.instances.start()
        id = mine.id
        await using found = await bramble.instances.get('box')
        expect(found.id).toBe(box.id)
      }
      await expect(bramble.instances.get(id)).rejects.toMatchObject({ code: 'not_found' })
      expect((await box.refresh()).status).toBe('running')
      await using keeper = await bramble.instances.start()
      keeper.keep()
      await keeper[Symbol.asyncDispose]()
      expect((await keeper.refresh()).status).toBe('running')
      await keeper.delete()
    })

    test('lists are pages of instances', async () => {
      const found = await bramble.instances.list({ label: 'suite=sdk', limit: 1 }).all()
      expect(found.map(({ name }) => name)).toEqual(['box'])
      expect(await bramble.instances.list({ label: 'suite=none' }).all()).toEqual([])
    })

    test('stats are those of a running one', async () => {
      expect(await box.stats()).toMatchObject({ id: box.id, processes: expect.any(Number) })
    })
  })

  describe('exec', () => {
    test('is awaited for its result', async () => {
      const result = await box.exec('echo "$FROM $MORE"; cat; echo err >&2; exit 3', {
        env: { MORE: 'more' },
        stdin: 'typed\n',
      })
      expect(result).toMatchObject({ exitCode: 3, status: 'failed', stdout: 'spec more\ntyped\n', stderr: 'err\n' })
    })

    test('has its text, and its failure as an error', async () => {
      expect(await box.exec(['echo', 'a b']).text()).toBe('a b\n')
      await expect(box.exec('exit 4').text()).rejects.toBeInstanceOf(CommandFailedError)
      await expect(box.exec('exit 4', { check: true })).rejects.toMatchObject({ result: { exitCode: 4 } })
    })

    test('streams its output, the same as the result has it', async () => {
      let text = ''
      const types: string[] = []
      for await (const event of box.exec('echo one; printf "\\377"; exit 2').stream()) {
        types.push(event.type)
        if (event.type === 'stdout') text += Buffer.from(event.bytes).toString('latin1')
        if (event.type === 'result') expect(event.result.exitCode).toBe(2)
      }
      expect(text).toBe('one\n\xff')
      expect(types.slice(-2)).toEqual(['exit', 'result'])
    })

    test('of a command that may run long has its output too', async () => {
      const result = await box.exec('echo out; echo err >&2', { timeoutMs: 3_600_000 })
      expect(result).toMatchObject({ exitCode: 0, stdout: 'out\n', stderr: 'err\n' })
      const short = await box.exec('echo 123456789', { timeoutMs: 3_600_000, maxOutputBytes: 4 })
      expect(short.truncated).toBe(true)
    })

    test('is ended by its signal', async () => {
      const controller = new AbortController()
      const running = box.exec('echo $$ > /tmp/aborted; exec sleep 1000', { signal: controller.signal })
      const outcome = expect(running).rejects.toMatchObject({ code: 'cancelled' })
      while ((await box.exec('test -s /tmp/aborted')).exitCode !== 0);
      controller.abort()
      await outcome
      const pid = await box.exec('cat /tmp/aborted').text()
      while ((await box.exec(`kill -0 ${pid.trim()}`)).exitCode === 0);
    })
  })

  describe('a stream', () => {
    test('runs several commands at once, with input, signals and ends', async () => {
      await using stream = await box.stream()
      const cat = await stream.exec('cat; exit 5')
      const sleeper = await stream.exec(['sleep', '1000'])
      expect(cat.pid).toBeGreaterThan(1)
      await cat.write('hello ')
      await cat.write(new Uint8Array([0xff]))
      await cat.closeStdin()
      const { stdout, exitCode } = await cat.collect()
      expect([Buffer.from(stdout).toString('latin1'), exitCode]).toEqual(['hello \xff', 5])
      await sleeper.kill('SIGKILL')
      expect(await sleeper.wait()).toMatchObject({ exitCode: 137, signal: 'SIGKILL' })
    })

    test('tells of a command that cannot start, and of an id that is taken', async () => {
      await using stream = await box.stream()
      const missing = await stream.exec(['/no/such/program'])
      expect(missing.pid).toBeUndefined()
      expect(await missing.wait()).toMatchObject({ exitCode: 127, message: expect.any(String) })
      await using first = await stream.exec('sleep 1000', { id: 'mine' })
      await using other = await box.stream()
      await expect(other.exec('true', { id: first.id })).rejects.toMatchObject({ code: 'conflict' })
      await expect(stream.exec(' ')).rejects.toMatchObject({ code: 'invalid_request' })
    })

    test('has the output of one that is not read in front of others, up to a bound', async () => {
      await using stream = await box.stream()
      const loud = await stream.exec(
        'i=0; while [ $i -lt 300 ]; do head -c 100000 /dev/zero; i=$((i+1)); echo $i > /tmp/loud; done',
      )
      // It is held up: what it has written so far stays the same, and is not all of it.
      let before = '-'
      for (let now = ''; now !== before; now = await box.exec('sleep 0.2; cat /tmp/loud').text()) before = now
      expect(Number(before)).toBeLessThan(300)
      let bytes = 0
      for await (const piece of loud) bytes += piece.bytes.length
      expect(bytes).toBe(30_000_000)
    })

    test('that is given up on goes on elsewhere: another attaches, and finds what was kept', async () => {
      const first = await box.stream()
      const begun = await first.exec('echo early; read line; echo "got $line"', { id: 'handed-over' })
      for await (const piece of begun) {
        expect(piece.text).toBe('early\n')
        break
      }
      first.close()
      await using second = await box.stream({ since: 'kept' })
      const again = second.attach('handed-over')
      await again.write('on\n')
      const { stdout, exitCode } = await again.collect()
      expect([Buffer.from(stdout).toString(), exitCode]).toEqual(['early\ngot on\n', 0])
    })

    test('survives broken connections, and misses nothing', async () => {
      await using way = await brittleWay(node.url)
      const client = new Bramble({ url: way.url, apiKey: node.key, backoff: { firstBackoffMs: 5 } })
      const instance = await client.instances.get('box')
      await using stream = await instance.stream()
      const counter = await stream.exec('i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i; usleep 1000; done')
      const lines: string[] = []
      let rest = ''
      let cuts = 0
      for await (const piece of counter) {
        const parts = (rest + piece.text).split('\n')
        rest = parts.pop() ?? ''
        lines.push(...parts)
        if (lines.length > (cuts + 1) * 80 && cuts < 4) {
          cuts++
          way.cut()
        }
      }
      expect(cuts).toBeGreaterThan(1)
      expect(lines).toEqual(Array.from({ length: 400 }, (_, i) => String(i + 1)))
      expect((await counter.wait()).exitCode).toBe(0)
      expect((await (await stream.exec('echo after')).collect()).exitCode).toBe(0)
    })

    test('that may not come back says so', async () => {
      await using way = await brittleWay(node.url)
      const client = new Bramble({ url: way.url, apiKey: node.key })
      const stream = await (await client.instances.get('box')).stream({ reconnectMs: 0 })
      await using sleeper = await stream.exec('sleep 1000', { id: 'left-behind' })
      const ended = expect(sleeper.wait()).rejects.toMatchObject({ code: 'connection_failed' })
      way.cut()
      await ended
      await expect(stream.closed).rejects.toMatchObject({ code: 'connection_failed' })
      await using again = await box.stream()
      expect(again.state?.commands.map(({ id }) => id)).toContain('left-behind')
      await again.attach('left-behind')[Symbol.asyncDispose]()
    })

    test('tells what happens: programs that speak up, files, ports, state', async () => {
      await using stream = await box.stream()
      const events = stream.events()
      const watch = stream.watch('/tmp')
      await watch.ready
      await box.files.write('/tmp/watched', 'x')
      for await (const event of watch) if (event.path === '/tmp/watched') break
      await box.exec('/.bramble/bramble-emit built \'{"ok":true}\'', { check: true })
      for await (const event of events) {
        if (event.type !== 'custom') continue
        expect(event).toMatchObject({ name: 'built', data: { ok: true } })
        break
      }
      expect(await stream.getState()).toMatchObject({ instanceId: box.id, status: 'running' })
    })

    test('a watch of what is not there is an error', async () => {
      await using stream = await box.stream({ processes: false })
      await expect(stream.watch('/no/such/place').ready).rejects.toMatchObject({ code: 'file_not_found' })
      await expect(box.watch('/no/such/place').ready).rejects.toMatchObject({ code: 'file_not_found' })
    })

    test('ends with its instance', async () => {
      await using mine = await bramble.instances.start()
      const stream = await mine.stream()
      const sleeper = await stream.exec('sleep 1000')
      const ended = sleeper.wait().catch((error: { code: string }) => error.code)
      await stream.stop()
      expect(stream.state?.status).toBe('stopped')
      // Either its end was told in time, or the stream's was.
      expect(['instance_stopped', 'object']).toContain(typeof (await ended) === 'object' ? 'object' : await ended)
      await expect(mine.stream()).rejects.toMatchObject({ code: 'instance_stopped' })
    })

    test("works with the platform's own WebSocket, and tells its refusals", async () => {
      const plain = new Bramble({ url: node.url, apiKey: node.key, webSocket: globalThis.WebSocket })
      const instance = await plain.instances.get('box')
      await using stream = await instance.stream()
      const { stdout } = await (await stream.exec('head -c 3000000 /dev/zero')).collect()
      expect(stdout.length).toBe(3_000_000)
      await using gone = await plain.instances.start()
      await gone.delete()
      await expect(gone.stream()).rejects.toMatchObject({ code: 'not_found' })
    })

    test('is refused with the reason of the node', async () => {
      await using gone = await bramble.instances.start()
      await gone.delete()
      await expect(gone.stream()).rejects.toMatchObject({ code: 'not_found' })
      const stranger = new Bramble({ url: node.url, apiKey: 'bramble_nobody' })
      await expect(stranger.instances.get('box')).rejects.toMatchObject({ code: 'unauthorized' })
      await expect(box.stream({ since: -1 })).rejects.toMatchObject({ code: 'invalid_request' })
    })
  })

  describe('a terminal', () => {
    const until = async (terminal: AsyncIterator<Uint8Array>, text: string): Promise<string> => {
      let seen = ''
      while (!seen.includes(text)) {
        const { done, value } = await terminal.next()
        if (done) throw new Error(`it ended after ${JSON.stringify(seen)}`)
        seen += Buffer.from(value).toString()
      }
      return seen
    }

    test('has a size, echoes, and ends with the code of its command', async () => {
      await using terminal = await box.pty({ cols: 100, rows: 30, cmd: 'stty size; read line; stty size; exit 6' })
      const shown = terminal[Symbol.asyncIterator]()
      await until(shown, '30 100')
      await terminal.resize(120, 40)
      await terminal.write('next\r')
      await until(shown, '40 120')
      expect(await terminal.exited).toEqual({ exitCode: 6 })
    })

    test('is found again by its session, and comes back by itself', async () => {
      const first: Terminal = await box.pty({ cmd: 'read a; echo "a=$a"; read b; echo "b=$b"' })
      first.detach()
      await using way = await brittleWay(node.url)
      const client = new Bramble({ url: way.url, apiKey: node.key, backoff: { firstBackoffMs: 5 } })
      await using second = await (await client.instances.get('box')).pty({ session: first.session })
      const shown = second[Symbol.asyncIterator]()
      await second.write('1\r')
      await until(shown, 'a=1')
      way.cut()
      await until(shown, '\x1bc')
      await second.write('2\r')
      await until(shown, 'b=2')
      expect((await second.exited).exitCode).toBe(0)
      await expect(box.pty({ session: first.session })).rejects.toMatchObject({ code: 'not_found' })
    })
  })

  describe('ports', () => {
    const serve = async (port: number): Promise<AsyncDisposable> => {
      await box.files.write('/www/index.html', 'hello from inside')
      const stream = await box.stream({ processes: false })
      const server = await stream.exec(['httpd', '-f', '-p', String(port), '-h', '/www'])
      while (!(await box.ports()).items.some((item) => item.port === port));
      return {
        [Symbol.asyncDispose]: async () => {
          await server[Symbol.asyncDispose]()
          await stream[Symbol.asyncDispose]()
        },
      }
    }

    test('are listed, exposed, and taken back', async () => {
      await using _server = await serve(8081)
      const { url } = await box.expose(8081, { visibility: 'public' })
      expect(await (await fetch(url)).text()).toBe('hello from inside')
      const { url: signed } = await box.expose(8081, { signedForMs: 60_000 })
      expect(await (await fetch(signed)).text()).toBe('hello from inside')
      expect((await box.ports()).items).toContainEqual(
        expect.objectContaining({ port: 8081, exposed: expect.objectContaining({ visibility: 'private' }) }),
      )
      await box.unexpose(8081)
      expect((await fetch(url)).ok).toBe(false)
    })

    test('are reached through a tunnel and a forwarded port, without a network', async () => {
      await using _server = await serve(8082)
      await using forwarding = await forwardPort(box, { port: 8082 })
      const answers = await Promise.all(
        Array.from({ length: 5 }, async () => (await fetch(`http://127.0.0.1:${forwarding.port}/`)).text()),
      )
      expect(new Set(answers)).toEqual(new Set(['hello from inside']))
      await using tunnel = await box.tunnel(8082)
      const writer = tunnel.writable.getWriter()
      await writer.write(new TextEncoder().encode('GET / HTTP/1.0\r\n\r\n'))
      const pieces = await Array.fromAsync(tunnel.readable)
      expect(Buffer.concat(pieces).toString()).toContain('hello from inside')
    })

    test('a port nobody listens on is an error, and does not stop the forwarding', async () => {
      const client = new Bramble({ url: node.url, apiKey: node.key, retries: 0 })
      const instance = await client.instances.get('box')
      await expect(instance.tunnel(9)).rejects.toMatchObject({ code: 'port_closed' })
      const errors: unknown[] = []
      await using forwarding = await forwardPort(instance, { port: 9, onError: (error) => errors.push(error) })
      await expect(fetch(`http://127.0.0.1:${forwarding.port}/`)).rejects.toThrow()
      expect(errors).toMatchObject([{ code: 'port_closed' }])
    })

    test('a taken local port is the error of the platform', async () => {
      const server = createServer()
      server.listen(0, '127.0.0.1')
      await once(server, 'listening')
      const address = server.address()
      const localPort = typeof address === 'object' ? address?.port : undefined
      await expect(forwardPort(box, { port: 1, localPort })).rejects.toMatchObject({ code: 'EADDRINUSE' })
      server.close()
    })
  })
})
