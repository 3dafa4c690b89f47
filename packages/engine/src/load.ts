/**
 * What the sandboxes of this node hold by their limits, in MiB. A sandbox counts in `boxesMb` from the moment its making
 * begins until it is gone, and in `endingMb` too from the moment it is given up.
 */
export interface Load {
  boxesMb: number
  endingMb: number
  /** Sandboxes given up and not gone yet. */
  ending: number
}

export const emptyLoad = (): Load => ({ boxesMb: 0, endingMb: 0, ending: 0 })
