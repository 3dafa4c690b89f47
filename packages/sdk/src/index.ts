export type {
  ApiKey,
  BatchResponse,
  ErrorCode,
  ExecutionRecord,
  ExecutionResult,
  ExecutionSpecInput,
  ExecutionStatus,
  Image,
  NewApiKey,
  OutputFile,
  Pool,
  Quota,
  Scope,
  UsageRow,
} from '@bramble/protocol'
export { BrambleError } from '@bramble/protocol'
export type { RetryPolicy } from './backoff.ts'
export type { BatchOptions } from './batch.ts'
export { Bramble, type BrambleOptions, type RunOptions } from './bramble.ts'
export { outputBytes } from './bytes.ts'
export type { CallOptions, ExecuteOptions } from './call.ts'
export { ExecutionBuilder, type FileContent } from './execution-builder.ts'
export { ExecutionStream, type StreamEvent } from './execution-stream.ts'
export type { Executions, ExecutionsQuery, LogsOptions } from './executions.ts'
export { CommandFailedError } from './failure.ts'
export type { ImageInput, Images } from './images.ts'
export type { KeyInput, Keys } from './keys.ts'
export { SDK_LIMITS } from './limits.ts'
export type { MapOptions, RaceResult, Runnable } from './many.ts'
export type { Health, PrewarmInput, UsageQuery, UsageReport } from './operations.ts'
export type { ListQuery, Page, PagedList } from './page.ts'
