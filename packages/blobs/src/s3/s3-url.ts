import { BrambleError } from '@bramble/protocol'

/** Where the objects of a store are, and how the server is spoken to. Printing it, or an error about it, tells no secret. */
export interface ObjectStoreLocation {
  readonly bucket: string
  /** Before every key, without slashes at its ends; may be empty. */
  readonly prefix: string
  /** Undefined: AWS itself. */
  readonly endpoint: string | undefined
  /** Undefined: what the AWS configuration of the host says. */
  readonly region: string | undefined
  /** The bucket in the path (`…/bucket/key`), not in the host name. */
  readonly pathStyle: boolean
  /** A function, so that nothing prints it. It gives undefined where the usual AWS ways are to be asked. */
  readonly credentials: () => ObjectStoreCredentials | undefined
  /** For people and logs: bucket, prefix and endpoint. */
  readonly label: string
}

export interface ObjectStoreCredentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string
}

type Environment = Readonly<Record<string, string | undefined>>

const PARAMETERS = ['endpoint', 'region', 'accessKeyId', 'secretAccessKey', 'sessionToken', 'pathStyle'] as const
type Parameter = (typeof PARAMETERS)[number]

/** Amazon's rule of bucket names, and the underscores and capitals that other servers allow. */
const BUCKET = /^[a-zA-Z0-9][a-zA-Z0-9._-]{1,61}[a-zA-Z0-9]$/
const PREFIX = /^[a-zA-Z0-9._-]+(\/[a-zA-Z0-9._-]+)*$/
const maxPrefixChars = 256

const refuse = (what: string): BrambleError =>
  // Never the URL: it may hold a secret.
  new BrambleError('invalid_request', { detail: `the URL of the object store: ${what}` })

/**
 * Parses `s3://bucket/prefix?endpoint=…&region=…&accessKeyId=…&secretAccessKey=…&sessionToken=…&pathStyle=…`. What is absent
 * comes from AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION, AWS_DEFAULT_REGION, and, for credentials, whatever the AWS SDK
 * looks at. Throws `invalid_request`, without any value of the URL.
 */
export const parseObjectStoreUrl = (text: string, env: Environment = process.env): ObjectStoreLocation => {
  const match = /^s3:\/\/([^/?#]*)(\/[^?#]*)?(?:\?([^#]*))?$/.exec(text)
  if (!match) throw refuse('it does not look like s3://bucket/prefix?endpoint=…')
  const [, bucket = '', path = '', search = ''] = match
  if (bucket.includes('@')) throw refuse('credentials go into the query (accessKeyId, secretAccessKey)')
  if (!BUCKET.test(bucket)) throw refuse('its bucket is no name of a bucket')
  const prefix = path.replace(/^\/+|\/+$/g, '')
  const dotted = prefix.split('/').some((part) => part === '.' || part === '..')
  if (prefix !== '' && (!PREFIX.test(prefix) || dotted || prefix.length > maxPrefixChars))
    throw refuse('its prefix has other characters than a-z, A-Z, 0-9, `.`, `_`, `-` and `/`')
  const given = parametersOf(search)
  const endpoint = endpointOf(given.endpoint ?? env.AWS_ENDPOINT_URL_S3 ?? env.AWS_ENDPOINT_URL)
  const region = given.region ?? env.AWS_REGION ?? env.AWS_DEFAULT_REGION ?? (endpoint && 'us-east-1')
  if (region !== undefined && !/^[a-zA-Z0-9-]{1,64}$/.test(region)) throw refuse('its region is no name of a region')
  const credentials = credentialsOf(given)
  if (given.pathStyle !== undefined && !/^(true|false)$/.test(given.pathStyle))
    throw refuse('pathStyle is `true` or `false`')
  const place = `s3://${bucket}${prefix === '' ? '' : `/${prefix}`}`
  return {
    bucket,
    prefix,
    endpoint,
    region,
    pathStyle: given.pathStyle === undefined ? endpoint !== undefined : given.pathStyle === 'true',
    credentials: () => credentials && { ...credentials },
    label: endpoint === undefined ? place : `${place} at ${endpoint}`,
  }
}

const parametersOf = (search: string): Partial<Record<Parameter, string>> => {
  const given: Partial<Record<Parameter, string>> = {}
  for (const [key, value] of new URLSearchParams(search)) {
    const parameter = PARAMETERS.find((each) => each === key)
    if (parameter === undefined) throw refuse(`it knows ${PARAMETERS.join(', ')} and nothing else`)
    if (given[parameter] !== undefined) throw refuse(`${parameter} is given twice`)
    if (value !== '') given[parameter] = value
  }
  return given
}

/** Without a path's last slash. */
const endpointOf = (text: string | undefined): string | undefined => {
  if (text === undefined || text === '') return undefined
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (!url || !/^https?:$/.test(url.protocol) || url.search !== '' || url.hash !== '')
    throw refuse('its endpoint is no http or https URL')
  if (url.username !== '' || url.password !== '') throw refuse('its endpoint has no user name: use accessKeyId')
  return url.href.replace(/\/$/, '')
}

const credentialsOf = (given: Partial<Record<Parameter, string>>): ObjectStoreCredentials | undefined => {
  const { accessKeyId, secretAccessKey, sessionToken } = given
  if (accessKeyId === undefined && secretAccessKey === undefined && sessionToken === undefined) return undefined
  if (accessKeyId === undefined || secretAccessKey === undefined)
    throw refuse('accessKeyId and secretAccessKey are given together')
  return { accessKeyId, secretAccessKey, ...(sessionToken !== undefined && { sessionToken }) }
}
