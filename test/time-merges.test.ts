import type { BranchesResponse, ExecutionResult, Instance, MergeResponse, MergeStrategy } from '@bramble/protocol'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { connectStream } from './live-socket.ts'
import { call, lines } from './time-node.ts'

/** Executions that leave states, forks of them, and branches that are folded back, over HTTP. */

let skip: string | undefined
let node: LiveNode

beforeAll(async () => {
  const opened = await openLiveNode({ checkpoint: true })
  if ('skip' in opened) skip = opened.skip
  else node = opened
})
afterAll(() => node?.[Symbol.asyncDispose]())
beforeEach((context) => {
  if (skip !== undefined) context.skip(skip)
})
afterEach(async () => {
  if (skip !== undefined) return
  const { items } = await call<{ items: Instance[] }>(node, 'GET', 'instances?limit=100')
  await Promise.all(items.map(({ id }) => call(node, 'DELETE', `instances/${id}`)))
})

const post = <T>(path: string, json: unknown): Promise<T> => call(node, 'POST', path, json)
const execute = (json: object): Promise<ExecutionResult> => post('execute', json)
const fork = (parent: string, command: string): Promise<ExecutionResult> => post('fork', { parent, command })
const branch = async (parent: string, count: number): Promise<string[]> => {
  const { items } = await post<BranchesResponse>('branches', { parent, count, memory: false })
  return items.map(({ instanceId }) => instanceId)
}

describe('executions', () => {
  test('a checkpointed one is gone on from, again and again; forks of it are apart', async () => {
    const first = await execute({ command: 'mkdir /work; echo 1 > /work/a', mode: 'checkpointed' })
    expect(first.snapshotId).toMatch(/^[0-9a-f]{64}$/)
    const second = await execute({
      command: 'cat /work/a; echo 2 > /work/b',
      mode: 'checkpointed',
      checkpoint: first.snapshotId,
    })
    expect(second).toMatchObject({ status: 'succeeded', stdout: '1\n' })
    const forks = await Promise.all([3, 4, 5].map((n) => fork(second.id, `cat /work/*; echo ${n} > /work/c; ls /work`)))
    expect(forks.map(({ stdout, mode }) => [stdout, mode])).toEqual(
      [3, 4, 5].map(() => ['1\n2\na\nb\nc\n', 'branched']),
    )
    expect(await fork(forks[1]?.id ?? '', 'cat /work/c')).toMatchObject({ stdout: '4\n' })
    expect(await fork(first.snapshotId ?? '', 'ls /work')).toMatchObject({ stdout: 'a\n' })
    const { items } = await call<{ items: Instance[] }>(node, 'GET', 'instances')
    expect(items).toEqual([])
  })

  test('what one left running goes on in what continues from it', async () => {
    const command =
      '(n=0; while :; do n=$((n+1)); echo $n > /dev/shm/n; usleep 5000; done) & usleep 50000; cat /dev/shm/n'
    const first = await execute({ command: `${command} && exec >&- 2>&-`, mode: 'checkpointed' })
    const reached = Number(first.stdout)
    expect(reached).toBeGreaterThan(0)
    const snapshot = await call<{ memory?: object }>(node, 'GET', `snapshots/${first.snapshotId}`)
    expect(snapshot.memory).toBeDefined()
    const ahead = `until test "$(cat /dev/shm/n)" -gt ${reached + 10}; do usleep 5000; done; echo on`
    const forks = await Promise.all([fork(first.id, ahead), fork(first.id, ahead)])
    expect(forks.map(({ stdout }) => stdout)).toEqual(['on\n', 'on\n'])
  })

  test('a fork of an instance that runs sees its processes, and leaves it alone', async () => {
    const box = await node.start({})
    using stream = await connectStream(node, box.id)
    stream.send({ type: 'exec', id: 'shell', command: 'echo begun; while read line; do echo $line; done', stdin: true })
    await lines(stream, 'shell', 1)
    const killed = await fork(
      box.id,
      'ps -o args | grep -c "[w]hile read"; pkill -f "[w]hile read"; echo gone > /root/gone',
    )
    expect(killed.stdout).toBe('1\n')
    stream.send({ type: 'stdin', id: 'shell', data: 'still\n' })
    expect((await lines(stream, 'shell', 2))[1]).toBe('still')
    expect(await node.sh(box.id, 'ls /root')).toBe('')
  })

  test('what there is nothing to fork of says so', async () => {
    const plain = await execute({ command: 'true' })
    const answers = await Promise.all(
      [plain.id, 'nothing', '0'.repeat(64), `ins_${'0'.repeat(26)}`].map((parent) =>
        node.ask('POST', '/api/v1/fork', { json: { parent, command: 'true' } }),
      ),
    )
    expect(answers.map(({ code }) => code)).toEqual(['conflict', 'not_found', 'not_found', 'not_found'])
    const without = await node.ask('POST', '/api/v1/fork', { json: { command: 'true' } })
    expect(without.code).toBe('invalid_request')
  })
})

const BASE = `mkdir /work; cd /work; seq 1 9 > text; printf 'a\\0b' > binary; echo moved > before; echo gone > gone; echo mode > mode`
const ONE = `cd /work; echo one > one; sed -i 's/^1$/first/' text; mv before after; chmod 700 mode; ln -s text link`
const TWO = `cd /work; echo two > two; sed -i 's/^9$/last/' text; rm gone; mkdir -p deep/er; echo x > deep/er/x`
const SHOW = 'cd /work; find . | sort | tr "\\n" " "; echo; cat text | tr "\\n" " "; stat -c %a mode'

describe('merges', () => {
  const merge = (branches: string[], more: object = {}): Promise<MergeResponse> => post('merge', { branches, ...more })
  const merged = async ({ snapshot }: MergeResponse): Promise<string> => {
    const { id } = await post<Instance>(`snapshots/${snapshot?.id}/restore`, {})
    return id
  }

  test('what branches did apart is in one state', async () => {
    const box = await node.start({})
    await node.sh(box.id, BASE)
    const commands = [ONE, TWO, 'echo three > /work/three']
    const { items } = await post<BranchesResponse>('branches', { parent: box.id, commands, memory: false })
    expect(items.map(({ result }) => result?.exitCode)).toEqual([0, 0, 0])
    // The parent goes on meanwhile: what they began from stays what they began from.
    await node.sh(box.id, 'rm -r /work; echo elsewhere > /work')
    const result = await merge(items.map(({ instanceId }) => instanceId))
    expect(result).toMatchObject({ conflicts: [], totals: { merged: 1, conflicts: 0 } })
    expect(await node.sh(await merged(result), SHOW)).toBe(
      '. ./after ./binary ./deep ./deep/er ./deep/er/x ./link ./mode ./one ./text ./three ./two \n' +
        'first 2 3 4 5 6 7 8 last 700\n',
    )
    expect(await node.sh(box.id, 'cat /work')).toBe('elsewhere\n')
  })

  const EXPECTED: Readonly<Record<Exclude<MergeStrategy, 'fail'>, string>> = {
    ours: '1 2 3 4 OURS 6 7 8 9 | ours | kept',
    theirs: '1 2 3 4 THEIRS 6 7 8 9 | theirs |',
    union: '1 2 3 4 OURS THEIRS 6 7 8 9 | ours theirs | kept',
  }
  const SHOWN =
    'cd /work; echo $(cat text) "|" $(cat binary* | tr -d "\\0\\n" | sed "s/st/s t/") "|" $(cat gone 2>/dev/null)'

  test('what several changed is settled as asked for, or not at all', async () => {
    const box = await node.start({})
    await node.sh(box.id, BASE)
    const [one = '', two = ''] = await branch(box.id, 2)
    await node.sh(one, `cd /work; sed -i 's/^5$/OURS/' text; printf 'ours\\0' > binary; echo kept > gone`)
    await node.sh(two, `cd /work; sed -i 's/^5$/THEIRS/' text; printf 'theirs\\0' > binary; rm gone`)
    const failed = await merge([one, two])
    expect(failed.snapshot).toBeUndefined()
    expect(failed.conflicts).toEqual([
      { path: 'work/binary', kind: 'content', branches: [one, two] },
      { path: 'work/gone', kind: 'deleted', branches: [one, two] },
      { path: 'work/text', kind: 'content', branches: [one, two], lines: [{ from: 5, to: 5 }] },
    ])
    for (const strategy of ['ours', 'theirs', 'union'] as const) {
      const settled = await merge([one, two], { strategy, name: strategy })
      expect(settled.conflicts.map((conflict) => conflict.settled)).toEqual([strategy, strategy, strategy])
      expect((await node.sh(await merged(settled), SHOWN)).trim()).toBe(EXPECTED[strategy])
    }
    const diff = await call<{ items: { path: string; change: string }[] }>(node, 'GET', 'snapshots/ours/diff/theirs')
    expect(diff.items.map(({ path, change }) => `${change} ${path}`)).toEqual([
      'changed work/binary',
      'removed work/gone',
      'changed work/text',
    ])
  })

  test('branches of branches, executions and snapshots are merged against what they have in common', async () => {
    const box = await node.start({})
    await node.sh(box.id, 'echo base > /root/base')
    const [left = '', right = ''] = await branch(box.id, 2)
    await node.sh(left, 'echo left > /root/left')
    const [leaf = ''] = await branch(left, 1)
    await node.sh(leaf, 'echo leaf > /root/leaf; rm /root/base')
    await node.sh(right, 'echo right > /root/right')
    const { id } = await post<{ id: string }>('snapshots', { instanceId: right, memory: false })
    const execution = await fork(right, 'echo execution > /root/execution')
    const result = await merge([leaf, id, execution.id])
    expect(result.conflicts).toEqual([])
    const end = await merged(result)
    expect(await node.sh(end, 'ls /root | tr "\\n" " "')).toBe('execution leaf left right ')
    // And that is something to branch from, and to merge again.
    const [again = '', other = ''] = await branch(end, 2)
    await node.sh(again, 'echo again > /root/again')
    await node.sh(other, 'rm /root/leaf')
    expect(await node.sh(await merged(await merge([again, other])), 'ls /root | tr "\\n" " "')).toBe(
      'again execution left right ',
    )
  })

  test('instances that have nothing in common have their image; or what is said', async () => {
    const [one, two] = await Promise.all([node.start({}), node.start({})])
    await node.sh(one.id, 'echo one > /root/one; echo same > /root/both')
    await node.sh(two.id, 'echo two > /root/two; echo same > /root/both')
    const base = await execute({ command: 'echo other > /root/both', mode: 'checkpointed' })
    for (const more of [{}, { base: base.id }]) {
      const end = await merged(await merge([one.id, two.id], more))
      expect(await node.sh(end, 'cat /root/* | tr "\\n" " "')).toBe('same one two ')
    }
  })
})
