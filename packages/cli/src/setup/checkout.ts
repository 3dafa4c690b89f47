import { resolve } from 'node:path'

/** The root of the checkout that this CLI runs from. */
export const checkoutRoot = resolve(import.meta.dirname, '../../../..')
