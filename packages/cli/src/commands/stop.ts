import { lifecycleCommand } from '../instances/each-instance.ts'

export default lifecycleCommand(
  'stop',
  'Stop instances: their processes end, their files are kept',
  'stopped',
  (instance, signal) => instance.stop({ signal }),
)
