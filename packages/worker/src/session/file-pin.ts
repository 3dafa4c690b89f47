import { randomBytes } from 'node:crypto'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { BrambleError, type Challenge, challengeSchema } from '@bramble/protocol'
import type { NetworkPin } from './session.ts'

const pinSchema = challengeSchema.pick({ network: true, publicKey: true })

const readPin = (file: string) => {
  try {
    return pinSchema.parse(JSON.parse(readFileSync(file, 'utf8')))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new BrambleError('conflict', { detail: `${file} does not say which network this node joined`, cause: error })
  }
}

export interface FilePin extends NetworkPin {
  /** The network that this node joined, once it has. */
  readonly known: JoinedNetwork | undefined
}

export type JoinedNetwork = Pick<Challenge, 'network' | 'publicKey'>

/** Keeps in a file whom this node met first as its network, and refuses all others from then on. */
export const filePin = (file: string): FilePin => {
  let pinned = readPin(file)
  return {
    get known() {
      return pinned
    },
    check({ network, publicKey }) {
      if (pinned === undefined) {
        const temporary = `${file}.${randomBytes(4).toString('hex')}`
        writeFileSync(temporary, `${JSON.stringify({ network, publicKey })}\n`, { mode: 0o600, flush: true })
        renameSync(temporary, file)
        pinned = { network, publicKey }
      }
      if (pinned.network === network && pinned.publicKey === publicKey) return
      throw new BrambleError('signature_invalid', {
        detail: `the coordinator is not of the network that this node joined (${file}); remove that file to join another one`,
      })
    },
  }
}
