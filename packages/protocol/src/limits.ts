/**
 * Every bound a client can meet, with its unit in its name. `docs/limits.md` is made from these constants
 * (`npm run docs:limits`), and a test keeps the two equal.
 */
export const LIMITS = {
  /** Largest JSON body a gateway reads. */
  maxBodyBytes: { value: 16 * 1024 * 1024, why: 'a body is held in memory while it is parsed' },
  /** Largest single argument, or `NAME=value` pair: the kernel's MAX_ARG_STRLEN (execve(2)). */
  maxArgumentBytes: { value: 131_071, why: 'execve(2) refuses a longer string (MAX_ARG_STRLEN)' },
  /** Arguments and environment of one command together. */
  maxArgumentsAndEnvBytes: {
    value: 786_432,
    why: 'they travel in one agent frame of 1 MiB, under the limit of execve(2)',
  },
  maxStdinBytes: { value: 8 * 1024 * 1024, why: 'stdin of an execution is part of its JSON body' },
  maxFiles: { value: 256, why: 'each file is one operation of the agent' },
  maxOutputs: { value: 64, why: 'each output is one operation of the agent' },
  maxOutputFilesBytes: { value: 16 * 1024 * 1024, why: 'returned files are part of the JSON result' },
  maxPathBytes: { value: 4095, why: 'PATH_MAX of Linux, less its NUL' },
  maxCpus: { value: 256, why: 'more than any host offers one sandbox' },
  maxMemoryMb: { value: 1_048_576, why: '1 TiB' },
  minMemoryMb: { value: 8, why: 'below this the agent and a shell do not fit' },
  maxDiskMb: { value: 1_048_576, why: '1 TiB' },
  minDiskMb: { value: 4, why: 'below this a file system cannot account for itself' },
  maxPids: { value: 32_768, why: "the kernel's default pid_max" },
  minPids: { value: 4, why: 'the agent, a shell and a child' },
  maxTimeoutMs: { value: 24 * 3_600_000, why: 'one day; longer work belongs in an instance' },
  maxOutputBytes: { value: 64 * 1024 * 1024, why: 'kept output is part of the JSON result' },
  maxLabels: { value: 32, why: 'labels are indexed' },
  maxLabelChars: { value: 256, why: 'labels are indexed' },
  maxBatchItems: { value: 1000, why: 'the results of a batch are one JSON document' },
  maxBatchConcurrency: { value: 64, why: 'more would starve the other tenants of a node' },
  maxPageItems: { value: 500, why: 'one page is one JSON document' },
  maxInstanceTtlMs: { value: 366 * 24 * 3_600_000, why: 'a year; `extend` moves it' },
  maxStreamMessageBytes: { value: 1024 * 1024, why: 'a message of a client is held in memory while it is parsed' },
  maxStreamCommands: { value: 64, why: 'commands of one instance at once on its streams' },
  maxStreamWatches: { value: 16, why: 'watches of one stream connection; each is a process in the sandbox' },
  maxStreams: { value: 64, why: 'stream connections of one instance at once' },
  maxWatchedDirectories: { value: 8192, why: 'each costs kernel memory; what is not watched is said' },
  keptStreamBytes: { value: 192 * 1024, why: 'the window of past events that a client may ask for again' },
  maxCustomEventBytes: { value: 8192, why: 'one datagram of a program in the sandbox' },
  maxListedFiles: { value: 10_000, why: 'a listing is one JSON document' },
  maxExposedPorts: { value: 64, why: 'of one instance' },
  maxNetworkRules: { value: 256, why: 'hosts and CIDRs of one allow list' },
  maxTenantVolumes: { value: 256, why: 'each is a subvolume of the node' },
  maxVolumes: { value: 32, why: 'mounted in one sandbox' },
  maxBlobBytes: { value: 64 * 1024 * 1024 * 1024, why: 'one blob that a client puts, or one content of a snapshot' },
  maxBlobTtlMs: { value: 366 * 24 * 3_600_000, why: 'a year; putting the blob again begins it anew' },
  maxTenantBlobs: { value: 100_000, why: 'each has a row in the database of the node' },
  maxTenantBlobBytes: { value: 256 * 1024 * 1024 * 1024, why: 'where the key has no `storageMb`' },
  maxNameValueBytes: { value: 1024 * 1024, why: 'the value of a name is held in memory' },
  maxSnapshotEntries: {
    value: 2_000_000,
    why: 'files that one snapshot changed; its tree is held in memory for a diff',
  },
  minSealRoomBytes: {
    value: 128 * 1024 * 1024,
    why: 'what the host’s disk must have left for a state: what sandboxes wrote last may not have reached it, and would be lost in silence',
  },
  maxImportBytes: {
    value: 64 * 1024 * 1024 * 1024,
    why: 'blobs of an imported snapshot, and its files with their holes',
  },
  maxSnapshotChain: { value: 256, why: 'parents of a snapshot that are shown' },
  maxTenantSnapshots: { value: 10_000, why: 'each has a record in the database of the node' },
  maxBranches: { value: 100, why: 'branches that one request may make' },
  maxMergeBranches: { value: 32, why: 'states that one merge may fold together' },
  maxMergeTextBytes: { value: 4 * 1024 * 1024, why: 'a file that is merged by lines is held in memory' },
  maxMergeTextLines: {
    value: 500_000,
    why: 'a merge by lines takes memory and time for each; a longer text is as a binary',
  },
  maxConflicts: { value: 1000, why: 'conflicts of a merge are one JSON document' },
  maxDiffEntries: { value: 10_000, why: 'a diff is one JSON document' },
  maxCachedResultBytes: { value: 16 * 1024 * 1024, why: 'a larger result is not cached' },
  maxCacheTtlMs: { value: 366 * 24 * 3_600_000, why: 'a year' },
  maxRedundancy: { value: 16, why: 'executions of one job that may be asked for at once' },
  maxJobExecutions: { value: 64, why: 'executions of one job in all, whatever was lost or disagreed' },
  maxInlineResultBytes: { value: 64 * 1024, why: 'of one content of a job’s result; more is a blob' },
  maxJobBytes: {
    value: 512 * 1024,
    why: 'a job is held in memory until it ends, and goes to workers whole; more is a blob',
  },
  maxFrameBytes: { value: 1024 * 1024, why: 'one message between a worker and its coordinator' },
  maxLeases: { value: 4096, why: 'executions that one worker holds at once' },
  maxNodes: { value: 200_000, why: 'each node that ever joined a network is held in memory' },
  maxOpenJobs: { value: 200_000, why: 'jobs of a network that have not ended are held in memory' },
  maxTenantOpenJobs: { value: 50_000, why: 'so that one tenant leaves room for others' },
  maxOpenJobChars: {
    value: 1024 * 1024 * 1024,
    why: 'of jobs of a network that have not ended, with the results that wait for a verdict: all of it is in memory',
  },
  maxTenantOpenJobChars: { value: 256 * 1024 * 1024, why: 'so that one tenant leaves memory for others' },
  maxJobLogBytes: { value: 1024 * 1024, why: 'live output of one execution that is kept; the result has the rest' },
  maxLeaseWaitMs: { value: 55_000, why: 'a long poll ends below the 60 s of most proxies' },
  maxClockSkewMs: { value: 60_000, why: 'a signed request is refused outside it; the answer tells the time' },
  maxPrewarmCount: { value: 1000, why: 'each pooled sandbox holds memory' },
} as const satisfies Record<string, { value: number; why: string }>

export type LimitName = keyof typeof LIMITS

/** What an execution gets when its spec does not say. */
export const DEFAULT_RESOURCES = {
  cpus: 1,
  memoryMb: 512,
  diskMb: 1024,
  pids: 256,
  timeoutMs: 60_000,
  maxOutputBytes: 1024 * 1024,
} as const
