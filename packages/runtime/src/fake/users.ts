import { type Credentials, type FakeFileSystem, SystemError } from './file-system.ts'

const rows = (files: FakeFileSystem, path: string): string[][] =>
  Buffer.concat(files.read(path, { uid: 0, gids: [0] }).chunks)
    .toString()
    .split('\n')
    .map((line) => line.split(':'))

/** `user`, `uid`, `user:group` or `uid:gid`, by the sandbox's passwd(5) and group(5). Throws `EINVAL` when unknown. */
export const findUser = (files: FakeFileSystem, text: string): Credentials => {
  const [user = '', group] = text.split(':')
  const row = rows(files, '/etc/passwd').find(([name, , uid]) => name === user || uid === user)
  const uid = row ? Number(row[2]) : /^\d+$/.test(user) ? Number(user) : user === 'root' ? 0 : undefined
  if (uid === undefined) throw new SystemError('EINVAL')
  const groups = rows(files, '/etc/group')
  if (group !== undefined) {
    const found = groups.find(([name, , gid]) => name === group || gid === group)?.[2]
    const gid = found ?? (/^\d+$/.test(group) ? group : undefined)
    if (gid === undefined) throw new SystemError('EINVAL')
    return { uid, gids: [Number(gid)] }
  }
  const primary = Number(row?.[3] ?? 0)
  const more = groups
    .filter(([, , , members]) => row && members?.split(',').includes(row[0] ?? ''))
    .map(([, , gid]) => Number(gid))
  return { uid, gids: [primary, ...more.filter((gid) => gid !== primary)] }
}
