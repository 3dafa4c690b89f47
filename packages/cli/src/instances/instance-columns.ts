import type { InstanceStatus } from '@bramble/sdk'

export const INSTANCE_STYLES: Record<InstanceStatus, 'green' | 'yellow' | 'cyan' | 'dim'> = {
  starting: 'cyan',
  running: 'green',
  paused: 'yellow',
  stopping: 'cyan',
  stopped: 'dim',
}
