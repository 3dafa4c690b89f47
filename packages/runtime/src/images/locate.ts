import type { ImageSource } from './image-store.ts'
import { locateDockerDaemon } from './locate-docker.ts'
import { locateOciArchive, locateOciLayout } from './locate-oci.ts'
import { locateRegistry } from './locate-registry.ts'
import { locateRootfsDirectory, locateRootfsTar } from './locate-rootfs.ts'
import type { ImportContext, Located } from './located.ts'

/** Finds the digest of what a source holds, with as little work as that takes. */
export const locate = (source: ImageSource, context: ImportContext): Promise<Located> => {
  switch (source.kind) {
    case 'rootfsTar':
      return locateRootfsTar(source, context)
    case 'rootfsDirectory':
      return locateRootfsDirectory(source, context)
    case 'ociArchive':
      return locateOciArchive(source, context)
    case 'ociLayout':
      return locateOciLayout(source)
    case 'registry':
      return locateRegistry(source, context)
    case 'dockerDaemon':
      return locateDockerDaemon(source, context)
    case 'unpacked': {
      const { digest, source: origin, config } = source.image
      return Promise.resolve({ digest, source: origin, fetch: async () => config, fill: source.fill })
    }
    default:
      return source satisfies never
  }
}
