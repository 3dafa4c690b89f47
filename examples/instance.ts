import { Bramble } from '@bramble/sdk'

// The node and the key: BRAMBLE_URL and BRAMBLE_API_KEY.
const bramble = new Bramble()
await using box = await bramble.instances.start({ memoryMb: 64, ttlMs: 600_000 })

await box.files.upload(
  { 'count.sh': { content: 'wc -w < input.txt', mode: 0o755 }, 'input.txt': 'four words are here' },
  '/srv',
)
for await (const event of box.exec('echo counting; ./count.sh > result.txt', { workdir: '/srv' }).stream())
  if (event.type === 'stdout') process.stdout.write(event.text)
console.log(await box.files.readText('/srv/result.txt'))
