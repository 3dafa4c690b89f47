import type { Instances } from '@bramble/engine'
import { mayDo } from '@bramble/http'
import { BrambleError } from '@bramble/protocol'
import ssh2, { type AuthContext, type PublicKeyAuthContext } from 'ssh2'
import type { KeyStore } from '../key-store.ts'
import type { SshKeyStore } from './ssh-key-store.ts'

export interface SshAuthentication {
  readonly instances: Pick<Instances, 'get'>
  readonly keys: Pick<KeyStore, 'find'>
  readonly sshKeys: Pick<SshKeyStore, 'tenantsOf'>
  /** False: the node has no keys, and lets in whoever is on this machine. */
  readonly auth: boolean
}

/** Whom a connection is for: an instance of a tenant. */
export interface SshLogin {
  readonly instanceId: string
  readonly tenant: string
}

/**
 * Looks at one attempt to log in (RFC 4252): undefined where it fails, with no difference between a wrong key and an instance
 * that is not there. `probe`: the client asks whether it is worth signing with that key.
 */
export const authenticate = async (
  { instances, keys, sshKeys, auth }: SshAuthentication,
  attempt: AuthContext,
): Promise<SshLogin | 'probe' | undefined> => {
  const tenants: string[] = []
  if (!auth) tenants.push('default')
  else if (attempt.method === 'password') {
    const caller = keys.find(attempt.password)
    if (caller && mayDo(caller, 'execute')) tenants.push(caller.tenant)
  } else if (attempt.method === 'publickey') {
    const known = sshKeys.tenantsOf(attempt.key.data.toString('base64'))
    if (known.length > 0 && attempt.signature === undefined) return 'probe'
    if (known.length > 0 && isSigned(attempt)) tenants.push(...known)
  }
  for (const tenant of tenants) {
    const instanceId = await instances.get(attempt.username, tenant).then(
      (instance) => instance.id,
      (error: unknown) => {
        if (error instanceof BrambleError && error.code === 'not_found') return undefined
        throw error
      },
    )
    if (instanceId !== undefined) return { instanceId, tenant }
  }
  return undefined
}

const isSigned = ({ key, blob, signature, hashAlgo }: PublicKeyAuthContext): boolean => {
  if (blob === undefined || signature === undefined) return false
  const parsed = ssh2.utils.parseKey(key.data)
  if (parsed instanceof Error) return false
  // Of RSA, only with SHA-2 (RFC 8332).
  if (parsed.type === 'ssh-rsa' && hashAlgo !== 'sha256' && hashAlgo !== 'sha512') return false
  return parsed.verify(blob, signature, hashAlgo) === true
}
