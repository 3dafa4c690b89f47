import type { InstanceLease } from '@bramble/engine'
import type { GatewayContext } from '../context.ts'

const SIGHUP = 1
const PREFIX = 'pty-'

export const newSessionId = (): string => `${PREFIX}${crypto.randomUUID()}`

/**
 * The terminals of instances: commands that outlive their clients for a while, so that one that lost its connection finds its
 * shell as it left it. One that nobody comes back to is hung up, as by a modem.
 */
export interface PtySessions {
  /** A client is there: the session is kept until `leave`, and for a while after it. */
  join(lease: InstanceLease, id: string): void
  /** A client went; `forGood`: it said that it does not come back. The last one to go decides. */
  leave(lease: InstanceLease, id: string, forGood: boolean): void
  /** Takes notice of sessions that an earlier gateway left without clients. */
  adopt(lease: InstanceLease): void
  /** Forgets them; they run on. */
  close(): void
}

type InstanceRef = Pick<InstanceLease, 'id' | 'tenant'>

interface Session {
  clients: number
  timer: NodeJS.Timeout | undefined
}

export const ptySessions = ({ engine, limits }: Pick<GatewayContext, 'engine' | 'limits'>): PtySessions => {
  const sessions = new Map<string, Session>()
  const keyOf = (instance: InstanceRef, id: string): string => `${instance.id} ${id}`

  /** An instance that is gone has no terminals; a paused one is not resumed for their end, which waits with it. */
  const hangUp = async (instance: InstanceRef, id: string, session: Session): Promise<void> => {
    const { status } = await engine.instances.get(instance.id, instance.tenant)
    if (session.clients > 0) return
    if (status === 'paused') return wait(instance, id, session)
    sessions.delete(keyOf(instance, id))
    // A lease of its own: that of the client is long given back.
    using lease = await engine.instances.use(instance.id, instance.tenant)
    lease.stream.commands.get(id)?.kill(SIGHUP)
  }
  const wait = ({ id: instanceId, tenant }: InstanceRef, id: string, session: Session): void => {
    const instance = { id: instanceId, tenant }
    session.timer = setTimeout(() => {
      hangUp(instance, id, session).catch(() => sessions.delete(keyOf(instance, id)))
    }, limits.ptyKeepMs).unref()
  }

  return {
    join: (lease, id) => {
      const session = sessions.get(keyOf(lease, id)) ?? { clients: 0, timer: undefined }
      clearTimeout(session.timer)
      session.clients++
      sessions.set(keyOf(lease, id), session)
    },
    leave: (lease, id, forGood) => {
      const session = sessions.get(keyOf(lease, id))
      if (!session || --session.clients > 0) return
      const command = lease.stream.commands.get(id)
      // Only what was begun as a terminal's session: other commands live as long as they like.
      if (!command || !id.startsWith(PREFIX)) {
        sessions.delete(keyOf(lease, id))
        return
      }
      if (!forGood) return wait(lease, id, session)
      sessions.delete(keyOf(lease, id))
      command.kill(SIGHUP)
    },
    adopt: (lease) => {
      for (const id of lease.stream.commands.keys()) {
        if (!id.startsWith(PREFIX) || sessions.has(keyOf(lease, id))) continue
        const session: Session = { clients: 0, timer: undefined }
        sessions.set(keyOf(lease, id), session)
        wait(lease, id, session)
      }
    },
    close: () => {
      for (const { timer } of sessions.values()) clearTimeout(timer)
      sessions.clear()
    },
  }
}
