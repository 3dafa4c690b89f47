import { createHash } from 'node:crypto'
import {
  batchDigest,
  bytesOfHex,
  createIdentity,
  frameCodec,
  helloDigest,
  receiptDigest,
  requestDigest,
  seal,
  signRouteToken,
  toHex,
} from '@bramble/identity'
import { wasmCurve } from '@bramble/identity/node'
import {
  canonicalJson,
  type ExecutionId,
  executionSpecSchema,
  type Hello,
  inputHash,
  type Json,
  type NodeReport,
  RECEIPT_DOMAIN,
  RECEIPT_FIELDS,
  type Receipt,
  type ResultDigests,
  resultHash,
} from '@bramble/protocol'

/** Test vectors that every implementation reads: `packages/identity/vectors/*.json`. All but `sealed` come out the same each time. */

const sha256 = (data: string | Uint8Array): string => createHash('sha256').update(data).digest('hex')
const secretOf = (name: string): Uint8Array => Uint8Array.from(createHash('sha256').update(name).digest())

const KEYS = ['bramble vector node 1', 'bramble vector node 2', 'bramble vector network'].map((name) => {
  const secretKey = secretOf(name)
  return { secretKey: toHex(secretKey), identity: createIdentity(secretKey, wasmCurve()) }
})
const identityOf = (index: number) => {
  const key = KEYS[index]
  if (key === undefined) throw new RangeError(`no key ${index}`)
  return key.identity
}

const network = `0x${sha256('bramble vector network')}`
const receiptOf = (index: number, signer: number, change: Partial<Receipt> = {}): Receipt => ({
  network,
  job: `job_01k9vectors00000000000000${index % 10}`,
  execution: `exe_01k9vectors0000000000000${String(index % 100).padStart(2, '0')}`,
  token: index + 1,
  node: identityOf(signer).id,
  inputHash: `0x${sha256(`input ${index}`)}`,
  resultHash: `0x${sha256(`result ${index}`)}`,
  cpuMs: 12 * index,
  peakMemoryBytes: 4096 * index,
  startedAtMs: 1_790_000_000_000 + index,
  finishedAtMs: 1_790_000_000_250 + index,
  ...change,
})

const SINGLE: readonly { readonly key: number; readonly receipt: Receipt }[] = [
  { key: 0, receipt: receiptOf(1, 0) },
  { key: 1, receipt: receiptOf(1, 1) },
  { key: 0, receipt: receiptOf(0, 0, { token: 0, startedAtMs: 0, finishedAtMs: 0, job: '', execution: '' }) },
  {
    key: 1,
    receipt: receiptOf(2, 1, {
      token: Number.MAX_SAFE_INTEGER,
      cpuMs: Number.MAX_SAFE_INTEGER,
      peakMemoryBytes: 2 ** 32,
      job: 'jöb ✓ 𝄞',
    }),
  },
]

const receipts = (): Json => ({
  domain: { ...RECEIPT_DOMAIN },
  fields: RECEIPT_FIELDS.map((field) => ({ ...field })),
  keys: KEYS.map(({ secretKey, identity }) => ({ secretKey, publicKey: identity.publicKey, node: identity.id })),
  single: SINGLE.map(({ key, receipt }) => ({
    key,
    digest: toHex(receiptDigest(receipt)),
    signed: identityOf(key).signReceipts([receipt])[0] as unknown as Json,
  })),
  batches: [2, 3, 7].map((size) => {
    const signed = identityOf(0).signReceipts(Array.from({ length: size }, (_, index) => receiptOf(index, 0)))
    return { key: 0, signed: signed as unknown as Json }
  }),
  batchDigest: {
    root: `0x${sha256('root')}`,
    digest: toHex(batchDigest(bytesOfHex(`0x${sha256('root')}`, 32))),
  },
})

const CANONICAL: readonly Json[] = [
  { b: 1, a: [true, false, null], '': {} },
  [1e21, 1e-7, 0.1, -0, 5e-324, 1.7976931348623157e308, 100, 333333333.3333333],
  {
    '\u20ac': 'Euro Sign',
    '\r': 'Carriage Return',
    '\ufb33': 'Hebrew',
    '\u{1f600}': 'Emoji',
    '\u0080': 'Control',
    1: 'One',
  },
  'quote " backslash \\ slash / control \u0000\u0001\b\t\n\f\r\u001f delete \u007f line \u2028',
]

const SPECS: readonly { readonly spec: Json; readonly imageDigest: string }[] = [
  { spec: { command: 'echo hello' }, imageDigest: `sha256:${sha256('image')}` },
  {
    spec: { command: ['sh', '-c', 'echo hello'], env: { B: '2', A: '1' }, labels: { not: 'counted' } },
    imageDigest: 'sha256:1',
  },
  {
    spec: {
      command: 'cat a b > out',
      stdin: 'in',
      files: { a: 'text', 'b/c': { base64: 'AAEC/w==', mode: 0o755 }, d: { blob: sha256('blob') } },
      outputs: ['out'],
      resources: { cpus: 4, memoryMb: 64, timeoutMs: 1000 },
      network: { allow: ['example.org'] },
      workdir: '/work',
      user: '1000:1000',
    },
    imageDigest: 'sha256:2',
  },
  {
    spec: { command: 'make', mode: 'cached', outputs: ['out'], stdin: { base64: 'AAEC/w==' } },
    imageDigest: 'sha256:3',
  },
]

const RESULTS: readonly ResultDigests[] = [
  { status: 'succeeded', exitCode: 0, stdoutSha256: sha256('hello\n'), stderrSha256: sha256(''), outputs: {} },
  {
    status: 'failed',
    exitCode: 137,
    signal: 'SIGKILL',
    stdoutSha256: sha256(''),
    stderrSha256: sha256('killed'),
    outputs: {},
  },
  {
    status: 'timeout',
    exitCode: null,
    stdoutSha256: sha256(''),
    stderrSha256: sha256(''),
    outputs: { b: sha256('b'), a: 'not_found' },
  },
]

const hashes = (): Json => ({
  canonical: CANONICAL.map((value) => ({ value, json: canonicalJson(value), sha256: sha256(canonicalJson(value)) })),
  inputs: SPECS.map(({ spec, imageDigest }) => ({
    spec,
    imageDigest,
    inputHash: inputHash(executionSpecSchema.parse(spec), imageDigest, sha256),
  })),
  results: RESULTS.map((digests) => ({
    digests: digests as unknown as Json,
    resultHash: resultHash(digests, sha256),
  })),
})

const messages = async (): Promise<Json> => {
  const [node, session, coordinator] = [identityOf(0), identityOf(1), identityOf(2)]
  const challenge = { nonce: `0x${sha256('nonce')}`, network }
  const report: NodeReport = {
    ...{ version: '1', cpus: 0.5, memoryMb: 512, diskMb: 1, slots: 1, gpus: [], isolation: ['container'] },
    ...{ labels: { b: '2', a: '1' }, images: [], speed: 12.5, machine: 'machine', platform: 'x64' },
  }
  const execution = 'exe_00000000000000000000000000' as ExecutionId
  const hello: Omit<Hello, 'signature'> = {
    ...{ type: 'hello', version: 1, node: node.id, sessionKey: session.publicKey, report },
    running: [{ execution, token: 1 }],
  }
  const request = {
    method: 'POST',
    path: '/api/v1/nodes/register?a=b',
    bodySha256: sha256('{}'),
    timestampMs: 1_790_000_000_000,
    nonce: '000102030405060708090a0b0c0d0e0f',
  }
  const claims = {
    network,
    node: node.id,
    tenant: 'default',
    user: 'ada',
    scopes: ['execute', 'read'],
    expiresAtMs: 1_790_000_060_000,
  }
  const key = session.sessionKey(coordinator.publicKey, bytesOfHex(challenge.nonce, 32))
  const worker = frameCodec({ key, side: 'worker' })
  const other = frameCodec({ key, side: 'coordinator' })
  const frames = ['{"type":"beat","running":[]}', '{"type":"drain"}', 'ü'].map((text) => ({
    text,
    worker: worker.seal(text),
    coordinator: other.seal(text),
  }))
  const helloBytes = helloDigest(challenge, hello)
  const requestBytes = requestDigest(request)
  const sealedText = 'SECRET=42'
  const sealed = await seal(node.publicKey, new TextEncoder().encode(sealedText))
  return {
    hello: { challenge, hello: hello as Json, digest: toHex(helloBytes), key: 0, signature: node.sign(helloBytes) },
    request: { request, digest: toHex(requestBytes), key: 0, signature: node.sign(requestBytes) },
    route: { claims, key: 2, token: signRouteToken(coordinator, claims) },
    session: { key: 1, peer: 2, salt: challenge.nonce, sessionKey: toHex(key), frames },
    sealed: { key: 0, text: sealedText, sealed },
  }
}

/** Each file of vectors, by its name without `.json`. */
export const vectors = async (): Promise<Readonly<Record<string, Json>>> => ({
  receipts: receipts(),
  hashes: hashes(),
  messages: await messages(),
})
