import { imageInvalid } from './image-errors.ts'

/** Bytes that an import may still write. One budget spans all layers of an image. */
export interface ByteBudget {
  readonly maxBytes: number
  usedBytes: number
}

export const byteBudget = (maxBytes: number): ByteBudget => ({ maxBytes, usedBytes: 0 })

/** Takes `bytes` from the budget, or throws `image_invalid` when there is less left. */
export const spend = (budget: ByteBudget, bytes: number): void => {
  budget.usedBytes += bytes
  if (budget.usedBytes > budget.maxBytes) {
    throw imageInvalid(`it is larger than the limit of ${budget.maxBytes} bytes (maxImageBytes)`)
  }
}
