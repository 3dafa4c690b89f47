import { createInterface } from 'node:readline'
import { bareCrun } from './competitors.ts'
import { timed } from './measure.ts'

const rootfs = process.argv[2]
if (rootfs === undefined) throw new Error('usage: bare-crun-process.ts ROOTFS')
const bare = bareCrun(rootfs)
for await (const _ of createInterface({ input: process.stdin })) console.log(await timed(bare.once))
bare.close()
