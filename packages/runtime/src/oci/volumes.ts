import type { VolumeStore } from '../runtime.ts'
import { type Launcher, launcherVolumePath } from './launcher.ts'

const MIB = 1024 * 1024

/** Volumes on the launcher's disk. */
export const volumeStore = (getLauncher: () => Promise<Launcher>): VolumeStore => ({
  create: async (name, sizeMb) => (await getLauncher()).createVolume(name, sizeMb * MIB),
  nextGeneration: async (name, before) => (await getLauncher()).nextGeneration(name, before),
  remove: async (kind, name) => (await getLauncher()).removeVolume(kind, name),
  list: async (kind) => await (await getLauncher()).volumes(kind),
  usedBytes: async (kind, name) => await (await getLauncher()).volumeUsed(kind, name),
  // Mounted in the launcher's namespace only.
  directory: async (kind, name) => `/proc/${(await getLauncher()).pid}/root${launcherVolumePath(kind, name)}`,
})
