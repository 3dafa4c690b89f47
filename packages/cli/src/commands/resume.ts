import { lifecycleCommand } from '../instances/each-instance.ts'

export default lifecycleCommand('resume', 'Let paused instances go on', 'running', (instance, signal) =>
  instance.resume({ signal }),
)
