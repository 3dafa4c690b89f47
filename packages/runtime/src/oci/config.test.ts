import { newId } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { type ConfigContext, ociConfig } from './config.ts'

const context: ConfigContext = {
  rootfs: '/run/x/rootfs',
  mounts: '/run/box/v',
  run: '/run/x/run',
  cgroupPath: '/bramble/n/x',
  uidBase: 0x2000_0000,
  swapAccounting: true,
  maxOpenFiles: 1024,
  seccompBpf: '',
}

const config = (changes: Partial<ConfigContext> = {}, cpus = 1) =>
  JSON.parse(
    ociConfig(
      {
        id: newId('sandbox'),
        image: {
          digest: `sha256:${'0'.repeat(64)}`,
          names: [],
          source: '',
          sizeBytes: 0,
          createdAt: '',
          config: { env: {}, workdir: '/', user: 'root' },
          rootfs: '/images/x',
        },
        resources: { cpus, memoryMb: 64, diskMb: 64, pids: 32 },
      },
      { ...context, ...changes },
    ),
  )

test('the profile is always there; what was compiled of it goes along once it is known', () => {
  expect(config().annotations).toBeUndefined()
  const later = config({ seccompBpf: 'AAAA' })
  expect(later.annotations).toEqual({ 'run.oci.seccomp_bpf_data': 'AAAA' })
  expect(later.linux.seccomp).toEqual(config().linux.seccomp)
  expect(later.linux.seccomp.syscalls.length).toBeGreaterThan(0)
})

test('limits: swap only where it is accounted, and never less processor time than the kernel takes', () => {
  expect(config().linux.resources).toMatchObject({
    memory: { limit: 64 * 1024 * 1024, swap: 64 * 1024 * 1024 },
    cpu: { period: 100_000, quota: 100_000 },
    pids: { limit: 32 },
  })
  expect(config({ swapAccounting: false }).linux.resources.memory).toEqual({ limit: 64 * 1024 * 1024 })
  expect(config({}, 0.001).linux.resources.cpu.quota).toBe(1000)
})

test('ids are mapped to a range of the sandbox alone, in every namespace there is', () => {
  const { linux } = config()
  expect(linux.uidMappings).toEqual([{ containerID: 0, hostID: 0x2000_0000, size: 65_536 }])
  expect(linux.gidMappings).toEqual(linux.uidMappings)
  const namespaces = linux.namespaces.map(({ type }: { type: string }) => type).sort()
  expect(namespaces).toEqual(['cgroup', 'ipc', 'mount', 'network', 'pid', 'user', 'uts'])
})
