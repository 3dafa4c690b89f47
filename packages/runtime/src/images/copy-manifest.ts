import { join } from 'node:path'
import { type ManifestOf, readBlob, streamBlob } from './blobs-of.ts'
import { imageInvalid } from './image-errors.ts'
import { type ImportContext, layoutPath } from './located.ts'
import { addLayer, finishLayout, type LayoutConfig, startLayout } from './oci-layout.ts'
import { hostArchitecture, parseOciConfig, runConfig } from './oci-manifest.ts'
import { type WrittenLayer, writeLayer } from './write-layer.ts'

/**
 * Copies an image, blob by blob, into a layout of checked, plain layers. Every blob must have the size and digest its
 * descriptor says, and every plain layer the digest the config says.
 */
export const copyManifest = async (image: ManifestOf, context: ImportContext): Promise<LayoutConfig> => {
  const { manifest, blobPath } = image
  const config = parseOciConfig(await readBlob(blobPath, manifest.config))
  const os = config.os || 'linux'
  const architecture = config.architecture || hostArchitecture()
  if (os !== 'linux' || architecture !== hostArchitecture()) {
    throw imageInvalid(`it is for ${os}/${architecture}; this host is linux/${hostArchitecture()}`)
  }
  const diffIds = config.rootfs.diff_ids
  if (diffIds.length !== manifest.layers.length) {
    throw imageInvalid(`its config tells of ${diffIds.length} layers, its manifest of ${manifest.layers.length}`)
  }
  const run = runConfig(config.config)
  const layout = layoutPath(context)
  await startLayout(layout)
  const totalBytes = manifest.layers.reduce((sum, { size }) => sum + size, 0)
  let doneBytes = 0
  const layers: WrittenLayer[] = []
  for (const [index, descriptor] of manifest.layers.entries()) {
    context.progress({
      phase: 'copy',
      message: `layer ${index + 1} of ${manifest.layers.length}`,
      fraction: totalBytes === 0 ? 1 : doneBytes / totalBytes,
    })
    const path = join(layout, `layer-${index}`)
    const layer = await writeLayer(streamBlob(blobPath, descriptor, context.signal), path, context)
    if (`sha256:${layer.diffId}` !== diffIds[index]) {
      throw imageInvalid(`its layer ${descriptor.digest} unpacks to other bytes than its config says`)
    }
    await addLayer(layout, path, layer)
    doneBytes += descriptor.size
    layers.push(layer)
  }
  await finishLayout(layout, layers, run)
  return run
}
