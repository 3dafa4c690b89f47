/** How those who lie go about it. In all of them they know each other, and lie the same lie. */
export interface Attack {
  readonly name: string
  /** Share of the nodes that are theirs. */
  readonly liars: number
  /** Share of the jobs that they lie about, all of them the same ones. */
  readonly lies: number
  /** Only once they are established. */
  readonly patient?: true
  /** Only of jobs that they hold a whole quorum of: they tell each other what they were given. */
  readonly together?: true
  /** A convicted one comes back under a new name of a new owner, after so many jobs. */
  readonly returnsAfterJobs?: number
}

export const ATTACKS: readonly Attack[] = [
  { name: '5% lie in 1 of 10 jobs', liars: 0.05, lies: 0.1 },
  { name: '20% lie in 1 of 10 jobs', liars: 0.2, lies: 0.1 },
  { name: '20%, patient: 1 of 50 jobs, once established', liars: 0.2, lies: 0.02, patient: true },
  { name: '20% lie in 1 of 2 jobs, and come back at once', liars: 0.2, lies: 0.5, returnsAfterJobs: 0 },
  { name: 'the same, back after 1,000 jobs', liars: 0.2, lies: 0.5, returnsAfterJobs: 1000 },
  { name: '20%, only where they hold a whole quorum', liars: 0.2, lies: 1, together: true },
]
