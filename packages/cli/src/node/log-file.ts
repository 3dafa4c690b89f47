import { join } from 'node:path'

/** Where a node logs when standard output is for a person. */
export const logFileOf = (dataDirectory: string): string => join(dataDirectory, 'node.log')
