import { type Curve, seal } from '@bramble/identity'
import { BrambleError, parse, type Sealed, sealedInputsSchema, sealedSchema } from '@bramble/protocol'
import { toBase64 } from '../bytes.ts'

export interface SecretInputs {
  readonly env?: Readonly<Record<string, string>> | undefined
  /** Text, or bytes, by path. */
  readonly files?: Readonly<Record<string, string | Uint8Array>> | undefined
  readonly stdin?: string | Uint8Array | undefined
}

const base64Or = (content: string | Uint8Array): string | { readonly base64: string } =>
  typeof content === 'string' ? content : { base64: toBase64(content) }

/**
 * Seals inputs of a job to the key of its network (`network.stats()` names it), for `sealedInputs` of a submission. Neither
 * the database nor the log of the network ever hold them in the clear; the coordinator seals them anew to each node that the
 * job is placed on, and these nodes read them.
 */
export const sealInputs = async (publicKey: string, inputs: SecretInputs, curve?: Curve): Promise<Sealed> => {
  const { env, files, stdin } = inputs
  const plain = parse(sealedInputsSchema, {
    ...(env !== undefined && { env }),
    ...(stdin !== undefined && { stdin: base64Or(stdin) }),
    ...(files !== undefined && {
      files: Object.fromEntries(Object.entries(files).map(([path, content]) => [path, base64Or(content)])),
    }),
  })
  const sealed = await seal(publicKey, new TextEncoder().encode(JSON.stringify(plain)), curve)
  if (!sealedSchema.safeParse(sealed).success)
    throw new BrambleError('invalid_request', {
      detail: `sealed inputs of ${sealed.ciphertext.length} characters are more than a job may have: put large files in a blob, encrypted`,
    })
  return sealed
}
