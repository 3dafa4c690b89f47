import type { Image } from '@bramble/sdk'
import type { Command } from 'commander'
import type { CliCommand } from '../command.ts'
import { addConnectionOptions } from '../connection.ts'
import { EXIT, ExitError } from '../exit.ts'
import { formatAge, formatBytes } from '../format.ts'
import { type ImagePlace, openImagePlace, type PlaceOptions } from '../images/image-place.ts'
import { showWork } from '../images/show-work.ts'
import { type ArchiveFormat, sourceOf } from '../images/source.ts'
import { interrupt } from '../node/interrupt.ts'
import { type Column, printList } from '../terminal.ts'

interface ListOptions extends PlaceOptions {
  readonly json?: boolean
}

interface ImportOptions extends ListOptions {
  readonly name?: string
  readonly format?: ArchiveFormat
  readonly insecure?: boolean
}

interface BuildOptions extends ListOptions {
  readonly packages?: string
  readonly name?: string
  readonly suite?: string
  readonly mirror?: string
}

const COLUMNS: Column<Image>[] = [
  { title: 'NAMES', text: (image) => image.names.join(', ') || '-' },
  { title: 'DIGEST', text: (image) => image.digest.slice(0, 19) },
  { title: 'SIZE', text: (image) => formatBytes(image.sizeBytes), right: true },
  { title: 'CREATED', text: (image) => formatAge(image.createdAt) },
  { title: 'SOURCE', text: (image) => image.source },
]

const withPlace = async <T>(options: PlaceOptions, work: (place: ImagePlace, signal: AbortSignal) => Promise<T>) => {
  using interrupted = interrupt()
  await using place = await openImagePlace(options)
  return await work(place, interrupted.signal)
}

const list = (options: ListOptions): Promise<void> =>
  withPlace(options, async (place) => {
    printList((await place.list()).sort(byName), COLUMNS, { json: options.json === true, empty: 'no images' })
  })

/** Those without a name come last. */
const byName = ({ names: [left = '\uffff'] }: Image, { names: [right = '\uffff'] }: Image): number =>
  left < right ? -1 : left > right ? 1 : 0

const bringIn = (reference: string, options: ImportOptions): Promise<void> =>
  withPlace(options, async (place, signal) => {
    const source = await sourceOf(reference, options)
    const image = await showWork(`import ${reference}`, (onProgress) => place.import(source, { signal, onProgress }))
    printImage(image, options)
  })

const build = (kind: string, options: BuildOptions): Promise<void> =>
  withPlace(options, async (place, signal) => {
    if (kind !== 'debian')
      throw new ExitError(EXIT.failure, `no way to build ${JSON.stringify(kind)}`, 'There is: debian.')
    const packages = (options.packages ?? '').split(',').filter((name) => name !== '')
    const { suite, name, mirror } = options
    const image = await showWork(`build ${kind}`, (onProgress) =>
      place.buildDebian({
        packages,
        signal,
        onProgress,
        ...(suite !== undefined && { suite }),
        ...(name !== undefined && { name }),
        ...(mirror !== undefined && { mirror }),
      }),
    )
    printImage(image, options)
  })

const remove = (names: string[], options: ListOptions): Promise<void> =>
  withPlace(options, async (place, signal) => {
    for (const name of await withoutAliases(place, names)) {
      await place.remove(name, { signal })
      console.log(name)
    }
  })

/** An image goes with all its names: each that is meant is removed once, by whichever of them. */
const withoutAliases = async (place: ImagePlace, names: readonly string[]): Promise<string[]> => {
  const images = await place.list()
  const seen = new Set<Image>()
  return names.filter((name) => {
    const image = images.find((one) => one.digest === name || one.names.includes(name))
    if (image === undefined) return true
    if (seen.has(image)) return false
    seen.add(image)
    return true
  })
}

const printImage = (image: Image, options: ListOptions): void =>
  printList([image], COLUMNS, { json: options.json === true, empty: '' })

const common = (command: Command): Command =>
  addConnectionOptions(command.option('--json', 'JSON, which is also what a pipe gets'))

export default {
  name: 'images',
  summary: 'List, import, build and remove images',
  configure(command) {
    common(command.command('list', { isDefault: true }).description('list the images of the node')).action(list)
    common(command.command('import').description('bring an image in'))
      .argument('<reference>', 'a reference of a registry, docker:<image>, or the path of an OCI layout or a tar')
      .option('--name <name>', 'what to call it (default: what the reference or the file is called)')
      .option('--format <format>', 'of a tar: rootfs, oci (default: found by looking)')
      .option('--insecure', 'take a registry without TLS')
      .action(bringIn)
    common(command.command('build').description('make an image'))
      .argument('<kind>', 'debian')
      .option('--packages <names>', 'Debian packages, with commas between them')
      .option('--name <name>', 'what to call it (default: debian)')
      .option('--suite <name>', 'the release (default: bookworm)')
      .option('--mirror <url>', 'where its packages come from')
      .action(build)
    common(command.command('rm').description('remove images that nothing uses, with all their names'))
      .argument('<image...>', 'by name or digest')
      .action(remove)
  },
} satisfies CliCommand
