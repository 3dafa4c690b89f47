import { lifecycleCommand } from '../instances/each-instance.ts'

export default lifecycleCommand(
  'pause',
  'Freeze instances: they use no processor until resumed',
  'paused',
  (instance, signal) => instance.pause({ signal }),
)
