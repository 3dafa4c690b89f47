import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { toBrambleError } from '@bramble/protocol'
import { lockDataDirectory } from '../node/data-directory-lock.ts'

const LOOK_MS = 200

/**
 * One set-up of a checkout at a time: compilers and apt write there. Others wait, until `signal`. Without a lock where the checkout
 * cannot be written, for then no set-up writes it.
 */
export const lockSetup = async (
  root: string,
  { onWait, signal }: { readonly onWait: () => void; readonly signal: AbortSignal },
): Promise<Disposable> => {
  let waits = false
  for (;;) {
    try {
      return lockDataDirectory(join(root, '.tools', 'setup'))
    } catch (error) {
      if (toBrambleError(error).code !== 'conflict') return { [Symbol.dispose]() {} }
    }
    if (!waits) onWait()
    waits = true
    await delay(LOOK_MS, undefined, { signal })
  }
}
