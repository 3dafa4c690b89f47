import { join } from 'node:path'

/** The images of the node of a data directory. */
export const imagesDirectory = (dataDirectory: string): string => join(dataDirectory, 'images')
