import * as protocol from '@bramble/protocol'
import { ERRORS, type ErrorCode } from '@bramble/protocol'
import { z } from 'zod'
import type { Route } from './route.ts'

type Json = Record<string, unknown>

/** Failures that any route of that kind may answer with. */
const COMMON: readonly ErrorCode[] = ['invalid_request', 'internal']
const SIGNED: readonly ErrorCode[] = ['signature_invalid', 'clock_skew', 'replayed', 'rate_limited', 'shutting_down']
const KEYED: readonly ErrorCode[] = ['unauthorized', 'forbidden', 'rate_limited', 'shutting_down']
const BODIED: readonly ErrorCode[] = ['invalid_json', 'unsupported_media_type', 'body_too_large', 'request_timeout']

const PROBLEM = 'application/problem+json'

/** What a server says it is. */
export interface ServerDescription {
  readonly title: string
  readonly description: string
  readonly version: string
}

type AnyRoute = Omit<Route<never>, 'handle' | 'replay'>

/** The OpenAPI 3.1 document of a route table, as JSON. */
export const openApiText = (table: readonly AnyRoute[], about: ServerDescription): string => {
  const input = schemaWriter('input')
  const output = schemaWriter('output')
  const problem = output.schema(protocol.problemSchema)
  const paths: Record<string, Json> = {}
  for (const route of table) {
    const path = route.path.replace(/:(\w+)/g, '{$1}').replace(/\*$/, '{path}')
    paths[path] = {
      ...paths[path],
      [route.method.toLowerCase()]: operation(route, input.schema, output.schema, problem),
    }
  }
  return JSON.stringify({
    openapi: '3.1.0',
    info: {
      ...about,
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    paths,
    components: {
      schemas: { ...input.components(), ...output.components() },
      securitySchemes: {
        key: { type: 'http', scheme: 'bearer', description: 'An API key' },
        ...(table.some(({ scope }) => scope === 'node') && { node: NODE_SIGNATURE }),
      },
    },
  })
}

const NODE_SIGNATURE: Json = {
  type: 'apiKey',
  in: 'header',
  name: 'bramble-signature',
  description: 'By the key of a node, with `bramble-node`, `bramble-timestamp` and `bramble-nonce`',
}

const operation = (
  route: AnyRoute,
  input: (schema: z.ZodType) => Json,
  output: (schema: z.ZodType) => Json,
  problem: Json,
): Json => {
  const { answer } = route
  const content: Json = {}
  if (answer.schema || answer.mediaType)
    content[answer.mediaType ?? 'application/json'] = answer.schema ? { schema: output(answer.schema) } : {}
  if (route.events) content['text/event-stream'] = { schema: output(route.events) }
  return {
    operationId: `${route.method.toLowerCase()}${route.path.replace('*', 'path').replace(/[/:.]+(\w)/g, (_, letter: string) => letter.toUpperCase())}`,
    tags: [route.tag],
    summary: route.summary,
    ...(route.description !== undefined && { description: route.description }),
    security: [...securityOf(route.scope), ...(route.orNode ? [{ node: [] }] : [])],
    parameters: parameters(route, input),
    ...((route.body ?? route.upload) && {
      requestBody: { required: !route.bodyOptional, content: bodyContent(route, input) },
    }),
    ...(route.messages && {
      'x-messages': {
        client: input(route.messages.client),
        ...(route.messages.server && { server: output(route.messages.server) }),
      },
    }),
    responses: {
      [answer.status]: { description: answer.description, ...(Object.keys(content).length > 0 && { content }) },
      ...problems(route, problem),
    },
  }
}

const securityOf = (scope: AnyRoute['scope']): Json[] => {
  if (scope === 'public') return []
  return scope === 'node' ? [{ node: [] }] : [{ key: [scope] }]
}

const bodyContent = (route: AnyRoute, input: (schema: z.ZodType) => Json): Json => {
  const streams = (route.upload ?? []).map((type) => [
    type === '*' ? '*/*' : type,
    { schema: { type: 'string', format: 'binary' } },
  ])
  return { ...(route.body && { 'application/json': { schema: input(route.body) } }), ...Object.fromEntries(streams) }
}

const PATH_PARAMETER: Json = {
  name: 'path',
  in: 'path',
  required: true,
  description: 'From the root of the sandbox; `/` stands for itself, and any byte may be percent-encoded.',
  schema: { type: 'string' },
}

const parameters = (route: AnyRoute, input: (schema: z.ZodType) => Json): Json[] => [
  ...fields(route.params, 'path', input),
  ...(route.path.endsWith('*') ? [PATH_PARAMETER] : []),
  ...fields(route.query, 'query', input),
  ...(route.idempotent
    ? [
        {
          name: 'Idempotency-Key',
          in: 'header',
          required: false,
          description: 'The same key with the same body gets the same answer.',
          schema: { type: 'string', maxLength: 255 },
        },
      ]
    : []),
]

const fields = (schema: z.ZodType | undefined, place: string, input: (schema: z.ZodType) => Json): Json[] => {
  if (schema instanceof z.ZodUnion) {
    const options = (schema.options as z.ZodType[]).map((option) => fields(option, place, input))
    const byName = new Map(options.flat().map((field) => [field.name, field]))
    const inAll = (name: unknown): boolean => options.every((option) => option.some((field) => field.name === name))
    return [...byName.values()].map((field) => ({ ...field, required: field.required === true && inAll(field.name) }))
  }
  if (!(schema instanceof z.ZodObject)) return []
  return Object.entries(schema.shape as Record<string, z.ZodType>).map(([name, field]) => ({
    name,
    in: place,
    required: place === 'path' || !field.safeParse(undefined).success,
    schema: input(field),
  }))
}

const problems = (route: AnyRoute, schema: Json): Record<string, Json> => {
  const codes = new Set<ErrorCode>([
    ...route.errors,
    ...COMMON,
    ...(route.scope === 'node' ? SIGNED : route.scope === 'public' ? [] : KEYED),
    ...(route.body ? BODIED : []),
    ...(route.idempotent ? (['idempotency_mismatch'] as const) : []),
  ])
  const byStatus = new Map<number, ErrorCode[]>()
  for (const code of codes) byStatus.set(ERRORS[code].status, [...(byStatus.get(ERRORS[code].status) ?? []), code])
  return Object.fromEntries(
    [...byStatus].map(([status, list]) => [
      status,
      {
        description: list.map((code) => `\`${code}\`: ${ERRORS[code].title}`).join('; '),
        content: { [PROBLEM]: { schema } },
      },
    ]),
  )
}

/** Schemas that the protocol exports by name become components; the others are written in place. */
const schemaWriter = (io: 'input' | 'output') => {
  const names = new Map<unknown, string>()
  for (const [name, value] of Object.entries(protocol))
    if (value instanceof z.ZodType && name.endsWith('Schema')) names.set(value, componentName(name, io))
  const used = new Set<z.ZodType>()
  const written = new Map<string, Json>()
  const write = (schema: z.ZodType): Json => {
    const { $schema: _dialect, ...rest } = z.toJSONSchema(schema, {
      io,
      unrepresentable: 'any',
      target: 'draft-2020-12',
    })
    return rest
  }
  return {
    schema: (schema: z.ZodType): Json => {
      const name = names.get(schema)
      if (name === undefined) return write(schema)
      if (!used.has(schema)) {
        used.add(schema)
        written.set(name, write(schema))
      }
      return { $ref: `#/components/schemas/${name}` }
    },
    components: (): Record<string, Json> => Object.fromEntries(written),
  }
}

const componentName = (name: string, io: 'input' | 'output'): string => {
  const base = name.slice(0, -'Schema'.length)
  return `${base[0]?.toUpperCase()}${base.slice(1)}${io === 'input' ? 'Input' : ''}`
}
