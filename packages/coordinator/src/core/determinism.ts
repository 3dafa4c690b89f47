import type { Comparator, JobRequest } from '@bramble/protocol'
import { type Group, groupsOf } from './groups.ts'
import type { ExecutionState, JobState } from './job-state.ts'

/**
 * What makes equal programs differ, held fixed: time zone, locale and order of sorting, build dates, seeds of hashes, and how
 * many threads add up numbers. See https://reproducible-builds.org/docs/. The date is the first that a ZIP archive can hold.
 */
const PROFILE = {
  TZ: 'UTC',
  LANG: 'C.UTF-8',
  LC_ALL: 'C.UTF-8',
  SOURCE_DATE_EPOCH: '315532800',
  PYTHONHASHSEED: '0',
  PERL_HASH_SEED: '0',
  PERL_PERTURB_KEYS: '0',
  OMP_NUM_THREADS: '1',
  OPENBLAS_NUM_THREADS: '1',
  MKL_NUM_THREADS: '1',
} as const

const isLocale = (name: string): boolean => name === 'LANG' || name.startsWith('LC_')

/** The request with that environment, but for what the job sets itself. `LC_ALL` would override any locale of its own. */
export const applyProfile = (request: JobRequest): JobRequest => {
  if (request.determinism === 'off') return request
  const { env } = request.spec
  const ownLocale = Object.keys(env).some(isLocale)
  const profile = Object.entries(PROFILE).filter(([name]) => !(ownLocale && isLocale(name)))
  return { ...request, spec: { ...request.spec, env: { ...Object.fromEntries(profile), ...env } } }
}

const NEARLY: Comparator = { type: 'fuzzy', absolute: 0, relative: 1e-9, fields: {}, ignore: [] }

/**
 * What results of one job say of it. With a verdict, only those that agree are asked: somebody who lies must not make a job
 * look as if its results differed by nature.
 */
export const determinismClassOf = (
  voters: readonly ExecutionState[],
  winner?: Group,
): NonNullable<JobState['determinismClass']> => {
  const members = winner?.members ?? voters
  if (groupsOf(members, { type: 'exact' }).length === 1) return 'exact'
  return winner !== undefined || groupsOf(members, NEARLY).length === 1 ? 'fuzzy' : 'none'
}
