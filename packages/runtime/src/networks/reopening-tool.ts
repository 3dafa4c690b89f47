import { type NetworkTool, openNetworkTool } from './network-tool.ts'

/** A networks program that is started when it is needed, and again after it died. */
export interface ReopeningTool extends Pick<NetworkTool, 'ask' | 'close'> {
  /** The process of now, for what lives and dies with it. */
  current(): Promise<NetworkTool>
}

export const reopeningTool = (): ReopeningTool => {
  let opening: Promise<NetworkTool> | undefined
  const current = (): Promise<NetworkTool> => {
    opening ??= openNetworkTool().then(
      (tool) => {
        void tool.closed.then(() => {
          opening = undefined
        })
        return tool
      },
      (error: unknown) => {
        opening = undefined
        throw error
      },
    )
    return opening
  }
  return {
    current,
    ask: async (operation, ...words) => (await current()).ask(operation, ...words),
    close: async () => {
      await (await opening?.catch(() => undefined))?.close()
    },
  }
}
