import { Bramble } from '@bramble/sdk'

// A loop whose state is in the memory of its process, and nowhere else.
const PYTHON = `
import time
weight = 0.0
for step in range(1, 1000):
    weight += (1.0 - weight) * 0.01
    print(f"step {step} weight {weight:.6f}", flush=True)
    time.sleep(0.05)
`
const SHELL = 'step=1; while :; do echo "step $step"; step=$((step + 1)); sleep 0.05; done'

const bramble = new Bramble()
const names = (await bramble.images.list().all()).flatMap((image) => image.names)
const image = names.includes('python:latest') ? 'python' : 'base'
const loop = image === 'python' ? ['python3', '-c', PYTHON] : ['sh', '-c', SHELL]

/** Reads on until the loop has reached a step, and says which one came first, and which last. */
const readUntil = async (output: AsyncIterable<{ text: string }>, enough: number): Promise<[number, number]> => {
  let text = ''
  for await (const piece of output) {
    text += piece.text
    const steps = [...text.matchAll(/step (\d+)\b.*\n/g)].map(([, step]) => Number(step))
    const last = steps.at(-1) ?? 0
    if (last >= enough) return [steps[0] ?? 0, last]
  }
  throw new Error(`the loop ended: ${text}`)
}

let reached: number
{
  await using box = await bramble.instances.start({ image, memoryMb: 128, ttlMs: 600_000 })
  await using stream = await box.stream({ processes: false })
  const training = await stream.exec(loop, { id: 'training' })
  reached = (await readUntil(training, 10))[1]
  await box.snapshot({ name: 'training', memory: true })
}
// The sandbox is gone, with the process and all that it had learned; the snapshot is not.
await using again = await bramble.snapshots.restore('training', { ttlMs: 600_000 })
await using stream = await again.stream({ processes: false })
const [first, last] = await readUntil(stream.attach('training'), reached + 20)
console.log(first > 1 ? 'it did not begin anew' : `it began anew at ${first}`)
console.log(last >= reached + 20 ? 'it went on' : 'it stood still')
await bramble.snapshots.remove('training')
