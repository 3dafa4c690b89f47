import { Bramble } from '@bramble/sdk'

const bramble = new Bramble()
await using box = await bramble.instances.start({ memoryMb: 64, ttlMs: 600_000 })
await using stream = await box.stream()

// What happens, while the commands below run.
const watch = stream.watch('/tmp')
await watch.ready
const watching = (async () => {
  for await (const { event, path } of watch) {
    console.log(event, path)
    if (path === '/tmp/done') return
  }
})()

// Two commands side by side on one connection, one of them with input.
const [upper, counter] = await Promise.all([stream.exec('tr a-z A-Z'), stream.exec('for i in 1 2 3; do echo $i; done')])
await upper.write('typed here\n')
await upper.closeStdin()
for (const command of [upper, counter]) {
  const { stdout, exitCode } = await command.collect()
  console.log(exitCode, new TextDecoder().decode(stdout).trim())
}
await box.exec('touch /tmp/done', { check: true })
await watching
