import { BrambleError, newId } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import type { Runtime, Sandbox } from '../runtime.ts'
import { endOf, outputOf } from './run-command.ts'
import { configOf, type Fixture, type FreshRuntime, skip } from './subject.ts'

/** In a path that only the life of a sandbox keeps: `/dev/shm` is in memory, and so are processes. */
const marked = ({ sharesHost }: { sharesHost?: boolean | undefined }) => {
  const mark = sharesHost ? './mark' : '/dev/shm/mark'
  return {
    leave: `echo same > ${mark}; sleep 100000 </dev/null >/dev/null 2>&1 & echo $!`,
    find: `cat ${mark}; kill -0 $PID && echo runs`,
  }
}

const codeOf = (thrown: unknown): string => (thrown instanceof BrambleError ? thrown.code : String(thrown))

const newLayer = (): string => newId('instance')

/** What stays when a sandbox or its runtime ends, for drivers that keep something. */
export const testKeep = (subject: Fixture): void => {
  const keeping: Fixture = (context) => {
    const opened = subject(context)
    if (!opened.runtime.capabilities.keep) skip(context, 'the driver keeps no sandboxes')
    return opened
  }
  const reopen = async (fresh: FreshRuntime): Promise<Runtime> => {
    await fresh.runtime.close()
    return await (fresh.reopen ?? fresh.restart)()
  }

  describe('layers', () => {
    test('files stay when a sandbox ends, and the next one on the layer has them', async (context) => {
      const { runtime, killAgent, ...rest } = keeping(context)
      const layer = newLayer()
      const one = await runtime.create(configOf(rest, { layer }))
      const root = rest.sharesHost ? '.' : '/root'
      await outputOf(one, `echo kept > ${root}/file; mkdir ${root}/new; chmod 700 ${root}/new`)
      if (!rest.sharesHost) await outputOf(one, `rm /home/app/hello.txt; chown 1000 ${root}/new`)
      await one.destroy()
      expect(await runtime.layers.list()).toContain(layer)

      const two = await runtime.create(configOf(rest, { layer }))
      expect(await outputOf(two, `cat ${root}/file; stat -c %a ${root}/new`)).toBe('kept\n700\n')
      if (!rest.sharesHost) expect(await outputOf(two, `ls /home/app; stat -c %u ${root}/new`)).toBe('1000\n')
      await outputOf(two, `echo more >> ${root}/file; sync`)
      await killAgent(two)
      expect(await two.ended).toMatchObject({ by: 'itself' })

      await using three = await runtime.create(configOf(rest, { layer }))
      expect(await outputOf(three, `cat ${root}/file`)).toBe('kept\nmore\n')
      await using other = await runtime.create(configOf(rest, { layer: newLayer() }))
      expect(await endOf(other, `cat ${root}/file`)).not.toBe(0)
      await Promise.all([three.destroy(), other.destroy()])
      await Promise.all([layer, other.config.keep?.layer ?? ''].map((name) => runtime.layers.remove(name)))
    })

    test('a layer has the bytes in it, and is removed when nothing runs on it', async (context) => {
      const { runtime, ...rest } = keeping(context)
      const layer = newLayer()
      const sandbox = await runtime.create(configOf(rest, { layer }))
      const root = rest.sharesHost ? '.' : '/root'
      await outputOf(sandbox, `dd if=/dev/urandom of=${root}/big bs=1048576 count=8; sync`)
      expect(await runtime.layers.usedBytes(layer)).toBeGreaterThanOrEqual(8 * 1024 * 1024)
      expect((await sandbox.stats()).diskBytes).toBeGreaterThanOrEqual(8 * 1024 * 1024)
      await expect(runtime.layers.remove(layer)).rejects.toMatchObject({ code: 'conflict' })
      await expect(runtime.create(configOf(rest, { layer }))).rejects.toMatchObject({ code: 'conflict' })
      expect(await outputOf(sandbox, `ls ${root}`)).toBe('big\n')
      await sandbox.destroy()
      expect(await runtime.layers.usedBytes(layer)).toBeGreaterThanOrEqual(8 * 1024 * 1024)
      await runtime.layers.remove(layer)
      await runtime.layers.remove(layer)
      expect(await runtime.layers.list()).not.toContain(layer)
      await using next = await runtime.create(configOf(rest, { layer }))
      expect(await outputOf(next, `ls ${root}`)).toBe('')
      await next.destroy()
      await runtime.layers.remove(layer)
    })

    test('the limit of the disk is that of the newest sandbox', async (context) => {
      const { runtime, ...rest } = keeping(context)
      if (!runtime.capabilities.limits.disk) skip(context, 'the driver does not limit the disk')
      const layer = newLayer()
      const small = await runtime.create(configOf(rest, { layer, resources: { diskMb: 16 } }))
      const write = (file: string) => `dd if=/dev/zero of=/root/${file} bs=1048576 count=24 && sync`
      expect(await endOf(small, write('one'))).not.toBe(0)
      await small.destroy()
      const large = await runtime.create(configOf(rest, { layer, resources: { diskMb: 64 } }))
      expect(await endOf(large, write('two'))).toBe(0)
      await large.destroy()
      await runtime.layers.remove(layer)
    })
  })

  describe('kept sandboxes', () => {
    test('one runs on when its runtime closes, and the next attaches to it', async (context) => {
      const { openFresh, ...rest } = keeping(context)
      const fresh = await openFresh()
      await fresh.runtime.prepare(rest.image)
      const config = configOf(rest, { layer: newLayer() })
      const made = await fresh.runtime.create(config)
      const passing = await fresh.runtime.create(configOf(rest))
      const PID = (await outputOf(made, marked(rest).leave)).trim()
      await using next = await reopen(fresh)
      expect(await passing.ended).toEqual({ by: 'destroy' })
      await expect(made.agent.ping()).rejects.toMatchObject({ code: 'sandbox_died' })
      await made.destroy()

      expect(await next.list()).toEqual([config.id])
      expect(await next.reap(new Set([config.id]))).toBe(0)
      await using attached = await next.attach(config)
      expect(attached).toMatchObject({ id: config.id, config, paused: false })
      expect(await outputOf(attached, marked(rest).find, { env: { PATH: '/bin', PID } })).toBe('same\nruns\n')
      expect((await attached.stats()).processes).toBeGreaterThanOrEqual(2)
      // Sandboxes that are made now do not get what is its.
      const more = await Promise.all([next.create(configOf(rest)), next.create(configOf(rest))])
      expect(await Promise.all(more.map((one) => endOf(one, ['true'])))).toEqual([0, 0])
      await expect(next.attach(config)).rejects.toMatchObject({ code: 'conflict' })
      expect(await next.reap()).toBe(0)
      await attached.destroy()
      expect(await attached.ended).toEqual({ by: 'destroy' })
      await expect(next.attach(config)).rejects.toMatchObject({ code: 'not_found' })
      expect(await next.layers.list()).toEqual([config.keep?.layer])
    })

    test('the end of one that was attached to is told', async (context) => {
      const { openFresh, killAgent, ...rest } = keeping(context)
      const fresh = await openFresh()
      await fresh.runtime.prepare(rest.image)
      const config = configOf(rest, { layer: newLayer() })
      await fresh.runtime.create(config)
      await using next = await reopen(fresh)
      const attached = await next.attach(config)
      await killAgent(attached)
      expect(await attached.ended).toMatchObject({ by: 'itself' })
      expect(await next.list()).toEqual([])
    })

    test('reap removes those that are not to be kept, and leaves their layers', async (context) => {
      const { openFresh, ...rest } = keeping(context)
      const fresh = await openFresh()
      await fresh.runtime.prepare(rest.image)
      const configs = [0, 1, 2].map(() => configOf(rest, { layer: newLayer() }))
      await Promise.all(configs.map((config) => fresh.runtime.create(config)))
      await using next = await reopen(fresh)
      const [first, ...others] = configs
      if (!first) throw new Error('no sandbox')
      expect(await next.reap(new Set([first.id]))).toBe(2)
      expect(await next.list()).toEqual([first.id])
      for (const config of others) expect(await next.attach(config).catch(codeOf)).toBe('not_found')
      expect((await next.layers.list()).sort()).toEqual(configs.map(({ keep }) => keep?.layer).sort())
      await using attached = await next.attach(first)
      expect(await endOf(attached, ['true'])).toBe(0)
      await attached.destroy()
    })

    test('one that is paused stays paused', async (context) => {
      const { openFresh, ...rest } = keeping(context)
      const fresh = await openFresh()
      if (!fresh.runtime.capabilities.pause) skip(context, 'the driver cannot pause a sandbox')
      await fresh.runtime.prepare(rest.image)
      const config = configOf(rest, { layer: newLayer() })
      const made = await fresh.runtime.create(config)
      const PID = (await outputOf(made, marked(rest).leave)).trim()
      await made.pause()
      await using next = await reopen(fresh)
      await using attached: Sandbox = await next.attach(config)
      expect(attached.paused).toBe(true)
      await attached.resume()
      expect(await outputOf(attached, marked(rest).find, { env: { PATH: '/bin', PID } })).toBe('same\nruns\n')
      await attached.destroy()
    })
  })
}
