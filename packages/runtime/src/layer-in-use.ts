import { BrambleError } from '@bramble/protocol'

export const layerInUse = (layer: string): BrambleError =>
  new BrambleError('conflict', { detail: `a sandbox runs on the layer ${layer}` })
