import { BrambleError } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { explainRefusal } from './refusal.ts'

const refusal = (detail: string) => new BrambleError('checkpoint_refused', { detail })

test('a refusal names the process and what it does', async () => {
  const error = await explainRefusal(
    refusal(`fsnotify: Can't dump that handle; Dump files (pid: ${process.pid}) failed with -1; Dumping FAILED.`),
  )
  expect(error).toMatchObject({
    code: 'checkpoint_refused',
    detail: expect.stringMatching(/^process \d+ \(.+\) watches files \(inotify\).*Dumping FAILED\.$/),
  })
})

test('one whose process is gone is explained all the same', async () => {
  const error = await explainRefusal(refusal('inotify; Dump files (pid: 4194999) failed with -1'))
  expect(error).toMatchObject({ detail: expect.stringMatching(/^a process watches files/) })
})

test('what nobody knows the meaning of, and other errors, stay as they are', async () => {
  const unknown = refusal('something new')
  expect(await explainRefusal(unknown)).toBe(unknown)
  const other = new BrambleError('sandbox_failed', { detail: 'inotify' })
  expect(await explainRefusal(other)).toBe(other)
})
