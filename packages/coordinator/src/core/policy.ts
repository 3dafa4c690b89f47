/** Every knob of verification, with its unit in its name. Networks set them; the simulation varies them. */
export interface VerificationConfig {
  /** Replicated agreements from which a node is established. */
  readonly establishedAgreements: number
  /** Least share of the lone results that are audited; of a node with c agreements it is the larger of this and 1/c. */
  readonly auditShare: number
  /** How long, and over how many later results of its node, a lone result may be asked again. */
  readonly settlementMs: number
  readonly settlementResults: number
  /** Executions of one job in all, and how many of them may fail, before it ends without consensus. */
  readonly maxExecutions: number
  readonly maxErrors: number
  /** A winning group needs an established node, where the network has any. */
  readonly anchorRule: boolean
  /** By so many established nodes a group must lead any other that has one, or more are asked. */
  readonly establishedLead: number
  /** Share of the quorums that need one more than `consensus`: whoever holds a whole quorum does not know whether that is all. */
  readonly quorumAuditShare: number
  /** Of `paranoid`: the share of nodes that are taken to lie before anything is known of them. */
  readonly assumedLiars: number
  readonly trust: TrustConfig
}

/** How a node's record is folded into its trust. */
export interface TrustConfig {
  /** What is left of all earlier experience when a new one comes: 0.99 remembers the last hundred. */
  readonly forgetting: number
  /** What a wrong and a malformed result weigh, where a right one weighs 1. */
  readonly wrongWeight: number
  readonly invalidWeight: number
  /** Share of the newest time in the average of a node's speed, once it has more than `1 / speedShare` of them. */
  readonly speedShare: number
  /** The score shown to people: nothing decides by it. */
  readonly score: {
    readonly initial: number
    readonly max: number
    readonly agreed: number
    readonly disagreed: number
    readonly silent: number
  }
}

const DEFAULT_TRUST: TrustConfig = {
  forgetting: 0.99,
  wrongWeight: 20,
  invalidWeight: 3,
  speedShare: 0.05,
  score: { initial: 100, max: 1000, agreed: 5, disagreed: -10, silent: -20 },
}

export const DEFAULT_VERIFICATION: VerificationConfig = {
  establishedAgreements: 10,
  auditShare: 0.1,
  settlementMs: 24 * 3_600_000,
  settlementResults: 1000,
  maxExecutions: 8,
  maxErrors: 4,
  anchorRule: true,
  establishedLead: 2,
  quorumAuditShare: 0,
  assumedLiars: 0.2,
  trust: DEFAULT_TRUST,
}

/** What a transition may know beside the job: passed in, so that it is a function of its arguments. */
export interface TransitionContext {
  readonly now: number
  readonly config: VerificationConfig
  /** Established nodes that are online now, and not of this job yet: without any, the anchor rule cannot be met and is left out. */
  readonly anchors: boolean
}
