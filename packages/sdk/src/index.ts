export type {
  ApiKey,
  BatchResponse,
  Branch,
  CacheName,
  CacheStats,
  DiffEntry,
  ErrorCode,
  ExecutionRecord,
  ExecutionResult,
  ExecutionSpecInput,
  ExecutionStatus,
  FileEntry,
  Image,
  InstanceSpecInput,
  InstanceStats,
  InstanceStatus,
  Invite,
  Job,
  JobEvent,
  JobEvidence,
  JobExecution,
  JobRequestInput,
  JobResult,
  JobStatus,
  MergeConflict,
  MergeResponse,
  MergeStrategy,
  NetworkInstance,
  NetworkNode,
  NetworkStats,
  NewApiKey,
  OutputFile,
  Pool,
  Quota,
  ReputationEntry,
  ResultContent,
  Route,
  Scope,
  Sealed,
  SignedReceipt,
  Snapshot,
  SnapshotChange,
  SnapshotDiff,
  SshKey,
  StoreCollection,
  StoreStats,
  TenantBlob,
  UsageRow,
  Verification,
  Volume,
  Waiting,
} from '@bramble/protocol'
export { BrambleError } from '@bramble/protocol'
export type { RetryPolicy } from './backoff.ts'
export type { BatchOptions } from './batch.ts'
export type { Blobs, GetBlobOptions, PutBlobOptions } from './blobs.ts'
export { Bramble, type BrambleOptions, type RunOptions } from './bramble.ts'
export { outputBytes } from './bytes.ts'
export type { Cache, CacheSelection } from './cache.ts'
export type { CallOptions, ExecuteOptions } from './call.ts'
export { type BlobContent, ExecutionBuilder, type FileContent } from './execution-builder.ts'
export { ExecutionStream, type StreamEvent } from './execution-stream.ts'
export type { Executions, ExecutionsQuery, LogsOptions } from './executions.ts'
export { CommandFailedError, type CommandOutcome } from './failure.ts'
export type { ImageInput, Images } from './images.ts'
export type { FileSource } from './instances/content.ts'
export type { CommandOutput, CustomEvent, FileEvent, InstanceEvent, StateEvent } from './instances/events.ts'
export type { ExecEvent, ExecOptions, ExecStream, InstanceExec } from './instances/exec.ts'
export type {
  FileCall,
  FilePath,
  FileStorage,
  Files,
  RangeOptions,
  TreeSource,
  WriteOptions,
} from './instances/files.ts'
export type { Instance } from './instances/instance.ts'
export type { InstanceStream, ProcessOptions, StreamOptions, Watch, WatchOptions } from './instances/instance-stream.ts'
export type { InstanceManager, Instances, InstancesQuery, StartOptions } from './instances/instances.ts'
export type { Exposed, ExposeOptions, Ports } from './instances/ports.ts'
export type { ProcessEnd, StreamProcess } from './instances/process.ts'
export type { Terminal, TerminalEnd, TerminalOptions } from './instances/terminal.ts'
export type { FileTree, TreeFile } from './instances/tree.ts'
export type { Tunnel } from './instances/tunnel.ts'
export type { JobEventsOptions } from './jobs/job-events.ts'
export type { Jobs, JobsQuery, SubmitOptions } from './jobs/jobs.ts'
export type { InviteInput, NetworkClient, NodesQuery, RouteOf } from './jobs/network.ts'
export type { NetworkInstances } from './jobs/network-instances.ts'
export type { RouteSource } from './jobs/route-source.ts'
export { type SecretInputs, sealInputs } from './jobs/seal-inputs.ts'
export {
  type CheckedReceipt,
  type EvidenceFault,
  type EvidenceFaultCode,
  type EvidenceReport,
  type VerifyOptions,
  verifyReceipts,
} from './jobs/verify-receipts.ts'
export type { WaitOptions } from './jobs/wait-for-job.ts'
export type { KeyInput, Keys } from './keys.ts'
export { SDK_LIMITS } from './limits.ts'
export type { MapOptions, RaceResult, Runnable } from './many.ts'
export type { Health, PrewarmInput, UsageQuery, UsageReport } from './operations.ts'
export { Output } from './output.ts'
export type { ListQuery, Page, PagedList } from './page.ts'
export type {
  Branches,
  BranchesQuery,
  BranchOptions,
  BranchWish,
  MadeBranch,
  MadeBranches,
} from './snapshots/branches.ts'
export { type Merge, MergeConflictError, type Merged, type MergeInput } from './snapshots/merge.ts'
export type {
  ExportOptions,
  ImportOptions,
  RestoreOptions,
  Snapshots,
  SnapshotsQuery,
} from './snapshots/snapshots.ts'
export type { StateRef } from './snapshots/state-ref.ts'
export type { SnapshotOptions } from './snapshots/take.ts'
export type { WebSocketClass } from './socket/open-socket.ts'
export type { SshKeyInput, SshKeys } from './ssh-keys.ts'
export type { Store } from './store.ts'
export type { VolumeInput, Volumes } from './volumes.ts'
