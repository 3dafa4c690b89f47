export { ATTACKS, type Attack } from './attacks.ts'
export { type Measured, measurePolicy, POLICIES, type Policy } from './policies.ts'
