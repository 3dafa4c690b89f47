import type { MemoryRequirements } from '@bramble/protocol'
import type { SealStore } from '@bramble/runtime'

const versionOf = (kernel: string): [number, number] => {
  const [, major = '0', minor = '0'] = /^(\d+)\.(\d+)/.exec(kernel) ?? []
  return [Number(major), Number(minor)]
}

/** Features named in an answer; processors lack either few or very many. */
const MAX_NAMED_FEATURES = 8

/** Why a memory image cannot run on a host that offers `offers`; undefined: it can. */
export const whyIncompatible = (needs: MemoryRequirements, offers: SealStore['offers']): string | undefined => {
  if (!offers) return `its memory is of the runtime \`${needs.runtime}\`, by which this node restores none`
  if (needs.architecture !== offers.architecture)
    return `its memory is of the architecture ${needs.architecture}, this node is ${offers.architecture}`
  if (needs.runtime !== offers.runtime)
    return `its memory is of the runtime \`${needs.runtime}\`, this node has \`${offers.runtime}\``
  if (needs.format !== offers.format)
    return `its memory is in the format \`${needs.format}\`, this node reads \`${offers.format}\``
  const [major, minor] = versionOf(needs.kernel)
  const [ownMajor, ownMinor] = versionOf(offers.kernel)
  if (ownMajor < major || (ownMajor === major && ownMinor < minor))
    return `its memory is of the kernel ${needs.kernel}, this node has the older ${offers.kernel}`
  if (needs.agent !== undefined && offers.agents?.includes(needs.agent) === false)
    return `its memory is of the agent ${needs.agent}, of another release of Bramble, which this node has not`
  const has = new Set(offers.cpuFeatures)
  const missing = needs.cpuFeatures.filter((feature) => !has.has(feature))
  if (missing.length === 0) return undefined
  const named = missing.slice(0, MAX_NAMED_FEATURES).join(', ')
  return `its processor had ${missing.length} features that this node's has not: ${named}`
}
