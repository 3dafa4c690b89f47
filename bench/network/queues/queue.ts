/** One way to set a queue up. `submit` resolves when its jobs are accepted as durably as the queue does it. */
export interface Queue extends AsyncDisposable {
  submit(count: number): Promise<void>
  /** Milliseconds from submission to completion, by the queue's own clocks, of the jobs that completed since `sinceMs`. */
  latencies(sinceMs: number): Promise<number[]>
}

/** What one process of workers is told. */
export interface ConsumerOptions {
  readonly kind: 'bullmq' | 'pg-boss'
  readonly url: string
  /** Jobs that one fetch takes, where the queue's workers can take several. */
  readonly fetchMax: number
  /** Whether submitting wakes workers that wait, where that is a choice. */
  readonly wake: boolean
}

export const QUEUE = 'jobs'
