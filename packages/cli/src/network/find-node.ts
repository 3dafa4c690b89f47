import type { Bramble, NetworkNode } from '@bramble/sdk'
import { EXIT, ExitError } from '../exit.ts'
import { ofNetwork } from './network-call.ts'

const PAGE = 500

/** A node by its id, the beginning of it, or its name. */
export const findNetworkNode = async (bramble: Bramble, ref: string): Promise<NetworkNode> => {
  if (/^0x[0-9a-f]{40}$/.test(ref)) return ofNetwork(bramble.network.node(ref))
  const found = (await ofNetwork(bramble.network.nodes({ limit: PAGE }).all())).filter(
    ({ id, name }) => name === ref || (/^0x[0-9a-f]{4,}$/.test(ref) && id.startsWith(ref)),
  )
  const [node, other] = found
  if (node === undefined)
    throw new ExitError(EXIT.failure, `no node ${JSON.stringify(ref)}`, '`bramble nodes` shows them.')
  if (other !== undefined)
    throw new ExitError(EXIT.failure, `${ref} means ${node.id} and ${other.id}`, 'Give more of it.')
  return node
}
