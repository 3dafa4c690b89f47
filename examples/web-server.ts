import { Bramble } from '@bramble/sdk'
import { forwardPort } from '@bramble/sdk/node'

const bramble = new Bramble()
// `command` runs in the background whenever the instance starts.
await using box = await bramble.instances.start({
  memoryMb: 64,
  ttlMs: 600_000,
  command: 'mkdir -p /www; echo hello > /www/index.html; httpd -f -p 8000 -h /www',
})

// Its sandbox has no network: the way in is the node's own.
const { url } = await box.expose(8000, { signedForMs: 60_000 })
console.log((await (await fetch(url)).text()).trim())

await using forwarding = await forwardPort(box, { port: 8000 })
console.log((await (await fetch(`http://127.0.0.1:${forwarding.port}/`)).text()).trim())
