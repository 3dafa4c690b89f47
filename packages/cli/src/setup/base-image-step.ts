import { existsSync } from 'node:fs'
import { imagesDirectory } from '../node/images-directory.ts'
import { runningNode } from '../node/node-file.ts'
import { staticBusybox } from './host-parts.ts'
import type { Step } from './step.ts'

/** The image that a spec means when it names none. */
const BASE = 'base'

/** Makes the base image of a data directory. A node that runs there has the images open, and has it already. */
export const baseImageStep = ({ dataDirectory }: { dataDirectory: string }): Step => ({
  title: 'Base image',
  plan: async () => {
    const directory = imagesDirectory(dataDirectory)
    if (runningNode(dataDirectory) !== undefined) return undefined
    if (existsSync(directory)) {
      const { openImageStore } = await import('@bramble/runtime')
      const store = await openImageStore({ directory })
      if (store.list().some((image) => image.names.includes(BASE))) return undefined
    }
    return {
      does: `make the image ${BASE} from busybox`,
      run: async (report, signal) => {
        const { buildBaseImage, openImageStore } = await import('@bramble/runtime')
        const store = await openImageStore({ directory })
        await buildBaseImage(store, {
          signal,
          busyboxPath: staticBusybox() ?? '/bin/busybox',
          onProgress: ({ message, fraction }) => report({ note: message, fraction }),
        })
      },
    }
  },
})
