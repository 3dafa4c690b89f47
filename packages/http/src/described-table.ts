import { docsPage } from './docs-page.ts'
import { openApiText, type ServerDescription } from './openapi.ts'
import { type Route, routesOf } from './route.ts'

/** A route table with what describes it: `/openapi.json` and `/docs`. */
export const describedTable = <Context>(
  routes: readonly Route<Context>[],
  about: ServerDescription,
): readonly Route<Context>[] => {
  const route = routesOf<Context>()
  let text: string | undefined
  const openapi = route({
    method: 'GET',
    path: '/openapi.json',
    tag: 'operations',
    summary: 'This API as OpenAPI 3.1',
    scope: 'public',
    answer: { status: 200, description: 'The document' },
    errors: [],
    handle: async () => {
      text ??= openApiText(table, about)
      return { status: 200, text }
    },
  })
  const docs = route({
    method: 'GET',
    path: '/docs',
    tag: 'operations',
    summary: 'This API as a page',
    scope: 'public',
    answer: { status: 200, description: 'A page', mediaType: 'text/html; charset=utf-8' },
    errors: [],
    handle: async (call) => docsPage(call.reply, about.title),
  })
  const table = [...routes, docs, openapi]
  return table
}
