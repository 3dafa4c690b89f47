import { z } from 'zod'
import { imageInvalid } from './image-errors.ts'

/** Manifests, indexes and configs are held in memory; registries bound them the same. */
export const MAX_MANIFEST_BYTES = 4 * 1024 * 1024
const MAX_LAYERS = 512
const MAX_INDEX_ENTRIES = 1024
const MAX_ENV = 1024

const digestSchema = z.string().regex(/^sha256:[0-9a-f]{64}$/, 'is not a sha256 digest')

const descriptorSchema = z.object({
  mediaType: z.string().optional(),
  digest: digestSchema,
  size: z.number().int().min(0),
  platform: z.object({ architecture: z.string(), os: z.string() }).optional(),
})
export type Descriptor = z.infer<typeof descriptorSchema>

/** An image manifest, OCI's or Docker's (schema 2): in what is read here they are alike. */
const manifestSchema = z.object({
  schemaVersion: z.literal(2, 'is not 2 (older manifests have no digests to check)'),
  config: descriptorSchema,
  layers: z.array(descriptorSchema).max(MAX_LAYERS),
})
export type Manifest = z.infer<typeof manifestSchema>

const indexSchema = z.object({ manifests: z.array(descriptorSchema).max(MAX_INDEX_ENTRIES) })

const configSchema = z.object({
  architecture: z.string().optional(),
  os: z.string().optional(),
  config: z
    .object({
      Env: z.array(z.string()).max(MAX_ENV).nullish(),
      WorkingDir: z.string().nullish(),
      User: z.string().nullish(),
    })
    .nullish(),
  rootfs: z.object({ diff_ids: z.array(digestSchema).max(MAX_LAYERS) }),
})
export type OciConfig = z.infer<typeof configSchema>

const parseJson = <S extends z.ZodType>(schema: S, bytes: Buffer, what: string): z.output<S> => {
  let value: unknown
  try {
    value = JSON.parse(bytes.toString('utf8'))
  } catch {
    // The parser's message quotes the text, which may be any file of the host that a hostile layout led to.
    throw imageInvalid(`its ${what} is not JSON`)
  }
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw imageInvalid(`its ${what} is wrong: ${issue?.path.join('.') ?? ''} ${issue?.message ?? ''}`)
}

export const parseManifest = (bytes: Buffer): Manifest => parseJson(manifestSchema, bytes, 'manifest')
export const parseIndex = (bytes: Buffer) => parseJson(indexSchema, bytes, 'index')
export const parseOciConfig = (bytes: Buffer): OciConfig => parseJson(configSchema, bytes, 'config')

/** An index names manifests, for platforms or for other uses; an image manifest has layers. */
export const isIndex = (bytes: Buffer): boolean =>
  parseJson(z.object({ manifests: z.unknown().optional() }), bytes, 'manifest').manifests !== undefined

const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386', ppc64: 'ppc64le' }

/** The host's architecture, in the words of OCI (which are Go's). */
export const hostArchitecture = (): string => ARCHITECTURES[process.arch] ?? process.arch

/** The manifests of an index that run on this host; one without a platform may. */
export const forThisHost = (descriptors: readonly Descriptor[]): Descriptor[] =>
  descriptors.filter(
    ({ platform }) =>
      platform === undefined || (platform.os === 'linux' && platform.architecture === hostArchitecture()),
  )

/** The one manifest of an index for this host, or `image_invalid` with what there is instead. */
export const choose = (descriptors: readonly Descriptor[]): Descriptor => {
  const candidates = forThisHost(descriptors)
  const first = candidates[0]
  if (first === undefined) {
    const others = [...new Set(descriptors.map(({ platform }) => `${platform?.os}/${platform?.architecture}`))]
    const has = others.length === 0 ? 'nothing' : others.slice(0, 8).join(', ')
    throw imageInvalid(`it has no image for linux/${hostArchitecture()}, but for ${has}`)
  }
  const different = new Set(candidates.map(({ digest }) => digest))
  if (different.size > 1 && candidates.some(({ platform }) => platform === undefined)) {
    throw imageInvalid(`it holds ${different.size} images; give a layout or archive with one`)
  }
  return first
}

/** What a command gets from an image's config. `entrypoint` and `cmd` are not used: an execution says its command. */
export const runConfig = (
  config: OciConfig['config'],
): { env: Record<string, string>; workdir: string; user: string } => {
  const env: Record<string, string> = {}
  for (const pair of config?.Env ?? []) {
    const at = pair.indexOf('=')
    if (at < 1 || pair.includes('\0')) throw imageInvalid('its config has an environment variable without a name')
    env[pair.slice(0, at)] = pair.slice(at + 1)
  }
  const workdir = config?.WorkingDir || '/'
  const user = config?.User || 'root'
  if (workdir.includes('\0') || user.includes('\0')) throw imageInvalid('its config has a NUL byte')
  return { env, workdir: workdir.startsWith('/') ? workdir : `/${workdir}`, user }
}
