import type { RequestListener } from 'node:http'
import type { FastifyInstance } from 'fastify'
import type { PortProxy } from './proxy.ts'

/** Requests for ports of instances never come to the routes: they are many, and need nothing of what is there. */
export const passPorts = (app: FastifyInstance, proxy: PortProxy): void => {
  const { server } = app
  const taking = server.listeners('connection')
  server.removeAllListeners('connection')
  server.on('connection', (socket) =>
    proxy.connection(socket, () => {
      for (const take of taking) take.call(server, socket)
    }),
  )
  const [answer] = server.listeners('request') as RequestListener[]
  server.removeAllListeners('request')
  server.on('request', (request, response) => {
    if (!proxy.request(request, response)) answer?.(request, response)
  })
  server.on('checkContinue', (request, response) => {
    if (proxy.request(request, response, true)) return
    response.writeContinue()
    answer?.(request, response)
  })
  // Where `localhost` has a second address, Fastify makes a second server.
  app.addHook('onRequest', (request, reply, done) => {
    if (proxy.request(request.raw, reply.raw)) reply.hijack()
    else done()
  })
}
