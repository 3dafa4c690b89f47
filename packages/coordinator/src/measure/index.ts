export { ATTACKS } from './attacks.ts'
export { type Measured, measurePolicy, POLICIES, type Policy } from './policies.ts'
