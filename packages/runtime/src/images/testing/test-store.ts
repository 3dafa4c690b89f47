import { access, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { expect, type TestContext } from 'vitest'
import { skip } from '../../testing/subject.ts'
import type { ImageSource, ImageStore, LocalImage } from '../image-store.ts'
import { type ImageStoreOptions, openImageStore } from '../open-image-store.ts'

export interface TestStore extends AsyncDisposable {
  readonly store: ImageStore
  readonly options: ImageStoreOptions
  /** A file of this name beside the store, with these bytes. */
  file(name: string, data: string | Buffer): Promise<string>
  /** A path beside the store. */
  path(name: string): string
  importTar(data: Buffer, name?: string): Promise<LocalImage>
  /** The import fails with this code, and leaves nothing in the store nor anything changed outside. */
  expectRefused(source: ImageSource, detail: RegExp, code?: string): Promise<void>
  expectTarRefused(data: Buffer, detail: RegExp): Promise<void>
  /** Nothing under way, no image. */
  expectEmpty(): Promise<void>
}

const CANARY = 'unharmed\n'

/** A store in a temporary directory, beside a file that nothing may touch. */
export const openTestStore = async (options: Partial<ImageStoreOptions> = {}): Promise<TestStore> => {
  const base = await mkdtemp(join(tmpdir(), 'bramble-images-'))
  const full = { ...options, directory: join(base, 'store') }
  const store = await openImageStore(full)
  const path = (name: string) => join(base, name)
  await writeFile(path('canary'), CANARY)
  const file = async (name: string, data: string | Buffer) => {
    await writeFile(path(name), data)
    return path(name)
  }
  const expectEmpty = async () => {
    expect(store.list()).toEqual([])
    expect(await readdir(path('store/sha256'))).toEqual([])
    expect(await readdir(path('store/tmp'))).toEqual([])
    expect(await readFile(path('canary'), 'utf8')).toBe(CANARY)
  }
  const expectRefused = async (source: ImageSource, detail: RegExp, code = 'image_invalid') => {
    const before = await readdir(base)
    const error = await store.import(source, { name: 'hostile' }).then(
      () => undefined,
      (thrown) => thrown,
    )
    expect(error).toMatchObject({ code, detail: expect.stringMatching(detail) })
    expect(await readdir(base)).toEqual(before)
    await expectEmpty()
  }
  return {
    store,
    options: full,
    file,
    path,
    expectEmpty,
    expectRefused,
    importTar: async (data, name) => store.import({ kind: 'rootfsTar', path: await file('in.tar', data) }, { name }),
    expectTarRefused: async (data, detail) => {
      await expectRefused({ kind: 'rootfsTar', path: await file('hostile.tar', data) }, detail)
    },
    [Symbol.asyncDispose]: () => rm(base, { recursive: true, force: true }),
  }
}

/** Skips the test, with the reason, where a program is missing; fails it where REQUIRE_DRIVERS has `oci`. */
export const needs = async (context: TestContext, ...programs: string[]): Promise<void> => {
  for (const program of programs) {
    const places = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']
    const found = await Promise.all(
      places.map((place) =>
        access(join(place, program)).then(
          () => true,
          () => false,
        ),
      ),
    )
    if (!found.includes(true)) skipUnlessRequired(context, `${program} is not installed`)
  }
}

export const skipUnlessRequired = (context: TestContext, reason: string): void => {
  if ((process.env.REQUIRE_DRIVERS ?? '').split(',').includes('oci')) throw new Error(reason)
  skip(context, reason)
}
