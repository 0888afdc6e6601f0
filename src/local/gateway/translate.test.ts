import { describe, expect, it } from '@jest/globals';
import type { Gateway, GatewayClass, HTTPRoute, HTTPRouteRule } from '../../api/foreign/gateway-api.ts';
import type { InferencePool, XInferencePool } from '../../api/foreign/inference-pool.ts';
import { allocateAddresses } from './addresses.ts';
import { covers, intersect } from './hostname.ts';
import { comparePrecedence } from './match.ts';
import { parseDurationMs } from './routes.ts';
import type { GatewayInput, JsonObject, Pod, Service } from './shapes.ts';
import { type ListenerState, renderStatuses } from './statuses.ts';
import { controllerName, translate } from './translate.ts';

const api = 'gateway.networking.k8s.io/v1' as const;

const gatewayClass: GatewayClass = {
  apiVersion: api,
  kind: 'GatewayClass',
  metadata: { name: 'local', generation: 1 },
  spec: { controllerName },
};

const gateway = (spec: Partial<Gateway['spec']> = {}, name = 'gw'): Gateway => ({
  apiVersion: api,
  kind: 'Gateway',
  metadata: { namespace: 'infra', name, generation: 2 },
  spec: {
    gatewayClassName: 'local',
    listeners: [{ name: 'http', port: 80, protocol: 'HTTP', allowedRoutes: { namespaces: { from: 'All' } } }],
    ...spec,
  },
});

const route = (rules: readonly HTTPRouteRule[], extra: Partial<HTTPRoute['spec']> = {}, name = 'r'): HTTPRoute => ({
  apiVersion: api,
  kind: 'HTTPRoute',
  metadata: { namespace: 'app', name, generation: 3, creationTimestamp: '2026-01-01T00:00:00Z' },
  spec: { parentRefs: [{ name: 'gw', namespace: 'infra' }], rules, ...extra },
});

const service = (name: string, port = 80, targetPort: number | string = 8000): Service => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { namespace: 'app', name },
  spec: { selector: { app: name }, ports: [{ port, targetPort }] },
});

const pod = (name: string, app: string, ip: string, ready = true): Pod => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { namespace: 'app', name, labels: { app } },
  spec: { containers: [{ ports: [{ name: 'web', containerPort: 8000 }] }] },
  status: { podIP: ip, conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }] },
});

const pool = (failureMode: 'FailOpen' | 'FailClose', picker = 'epp'): InferencePool => ({
  apiVersion: 'inference.networking.k8s.io/v1',
  kind: 'InferencePool',
  metadata: { namespace: 'app', name: 'pool', generation: 4 },
  spec: {
    selector: { matchLabels: { app: 'model' } },
    targetPorts: [{ number: 8000 }],
    endpointPickerRef: { name: picker, port: { number: 9002 }, failureMode },
  },
});

const xPool: XInferencePool = {
  apiVersion: 'inference.networking.x-k8s.io/v1alpha2',
  kind: 'InferencePool',
  metadata: { namespace: 'app', name: 'pool', generation: 1 },
  spec: { selector: { app: 'model' }, targetPortNumber: 8000, extensionRef: { name: 'epp', failureMode: 'FailClose' } },
};

const poolRef = { group: 'inference.networking.k8s.io', kind: 'InferencePool', name: 'pool' } as const;

const input = (partial: Partial<GatewayInput> = {}): GatewayInput => ({
  gatewayClasses: [gatewayClass],
  gateways: [gateway()],
  httpRoutes: [],
  services: [service('web'), { ...service('epp', 9002, 9002) }],
  pods: [
    pod('web-1', 'web', '127.65.0.2'),
    pod('web-0', 'web', '127.65.0.1'),
    pod('web-2', 'web', '127.65.0.3', false),
    pod('model-0', 'model', '127.65.1.1'),
    pod('epp-0', 'epp', '127.65.2.1'),
  ],
  namespaces: [{ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'app', labels: { team: 'blue' } } }],
  inferencePools: [],
  xInferencePools: [],
  referenceGrants: [],
  ...partial,
});

const run = (partial: Partial<GatewayInput> = {}) => {
  const given = input(partial);
  const translation = translate(given, {
    addresses: allocateAddresses('127.66', given.gateways),
    accessLogPath: '/log',
    routesPath: (name) => `/xds/${name}.json`,
  });
  return { given, translation };
};

interface VirtualHost {
  readonly name: string;
  readonly routes: readonly JsonObject[];
}

const hosts = (partial: Partial<GatewayInput>, name = 'infra_gw_80'): readonly VirtualHost[] =>
  run(partial).translation.resources.routes.get(name)?.virtual_hosts as unknown as readonly VirtualHost[];

const routesOf = (rules: readonly HTTPRouteRule[], partial: Partial<GatewayInput> = {}): readonly JsonObject[] =>
  hosts({ httpRoutes: [route(rules)], ...partial })[0]?.routes ?? [];

const clusters = (partial: Partial<GatewayInput>) =>
  Object.fromEntries(run(partial).translation.resources.clusters.map((cluster) => [cluster.name, cluster]));

const ready: ListenerState = { kind: 'ready' };
const statuses = (partial: Partial<GatewayInput>, state: ListenerState = ready) => {
  const { given, translation } = run(partial);
  return renderStatuses(translation, given, () => state, '2026-02-02T00:00:00Z');
};

interface Said {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
}
const brief = (conditions: unknown) =>
  Object.fromEntries((conditions as readonly Said[]).map((c) => [c.type, `${c.status} ${c.reason}`]));

describe('hostnames', () => {
  it.each([
    ['*', 'a.example.com', 'a.example.com'],
    ['*.example.com', 'a.b.example.com', 'a.b.example.com'],
    ['*.example.com', '*.b.example.com', '*.b.example.com'],
    ['a.example.com', '*.example.com', 'a.example.com'],
    ['*.example.com', 'example.com', undefined],
    ['a.example.com', 'b.example.com', undefined],
    ['*.example.com', 'badexample.com', undefined],
  ])('%s and %s share %s', (a, b, shared) => {
    expect(intersect(a, b)).toBe(shared);
  });

  it('does not take a wildcard as part of a name', () => {
    expect(covers('a.example.com', '*.example.com')).toBe(false);
  });
});

describe('durations', () => {
  it.each([
    ['0s', 0],
    ['500ms', 500],
    ['1h30m', 5_400_000],
    ['10s', 10_000],
  ])('%s is %d ms', (text, ms) => {
    expect(parseDurationMs(text)).toBe(ms);
  });
});

describe('precedence', () => {
  const of = (match: HTTPRouteRule['matches'], createdAt = 'a', name = 'n', ruleIndex = 0) => ({
    match: match?.[0] ?? {},
    createdAt,
    route: name,
    ruleIndex,
    matchIndex: 0,
  });
  const prefix = (value: string) => ({ path: { type: 'PathPrefix', value } });
  const header = (name: string) => ({ name, value: '1' });
  it.each([
    ['exact before prefix', of([{ path: { type: 'Exact', value: '/a' } }]), of([prefix('/aaaa')])],
    ['longer prefix', of([prefix('/aa')]), of([prefix('/a')])],
    [
      'method',
      of([{ ...prefix('/a'), method: 'GET' }]),
      of([{ ...prefix('/a'), headers: [header('x'), header('y')] }]),
    ],
    ['more headers', of([{ headers: [header('x'), header('y')] }]), of([{ headers: [header('x')] }])],
    ['more query parameters', of([{ queryParams: [header('x')] }]), of([{}])],
    ['older', of([{}], '2025'), of([{}], '2026')],
    ['name', of([{}], 'a', 'a/a'), of([{}], 'a', 'a/b')],
    ['earlier rule', of([{}], 'a', 'n', 0), of([{}], 'a', 'n', 1)],
  ])('%s', (_, stronger, weaker) => {
    expect(comparePrecedence(stronger, weaker)).toBeLessThan(0);
    expect(comparePrecedence(weaker, stronger)).toBeGreaterThan(0);
  });
});

describe('addresses', () => {
  it('keeps the one in the status and gives the others the lowest free', () => {
    const kept: Gateway = { ...gateway({}, 'b'), status: { addresses: [{ value: '127.66.0.1' }] } };
    const stolen: Gateway = { ...gateway({}, 'c'), status: { addresses: [{ value: '127.66.0.1' }] } };
    expect([...allocateAddresses('127.66', [gateway({}, 'a'), kept, stolen])].sort()).toEqual([
      ['infra/a', '127.66.0.2'],
      ['infra/b', '127.66.0.1'],
      ['infra/c', '127.66.0.3'],
    ]);
  });

  it('says so when a three-number prefix is full', () => {
    const many = Array.from({ length: 255 }, (_, i) => gateway({}, `g${i}`));
    expect(() => allocateAddresses('127.66.3', many)).toThrow('no free address below 127.66.3');
  });
});

describe('routes', () => {
  const backendRefs = [{ name: 'web', port: 80 }];
  const rewriteTo = (value: string) => [
    { type: 'URLRewrite', urlRewrite: { path: { type: 'ReplacePrefixMatch', replacePrefixMatch: value } } },
  ];
  const rewriteRule = (prefix: string, replacement: string): HTTPRouteRule => ({
    matches: [{ path: { type: 'PathPrefix', value: prefix } }],
    filters: rewriteTo(replacement),
    backendRefs,
  });

  it.each([
    ['/foo', '/xyz', { prefix_rewrite: '/xyz' }],
    ['/foo/', '/xyz/', { prefix_rewrite: '/xyz' }],
    ['/foo', '/', { regex_rewrite: { pattern: { regex: '^/foo/?' }, substitution: '/' } }],
    ['/a.b', '', { regex_rewrite: { pattern: { regex: '^/a\\.b/?' }, substitution: '/' } }],
    ['/', '/xyz', { regex_rewrite: { pattern: { regex: '^/' }, substitution: '/xyz/' } }],
    ['/', '/', {}],
  ])('rewrite of prefix %s to %s', (prefix, replacement, expected) => {
    const action = routesOf([rewriteRule(prefix, replacement)])[0]?.route as JsonObject;
    const { prefix_rewrite, regex_rewrite } = action;
    expect(JSON.parse(JSON.stringify({ prefix_rewrite, regex_rewrite }))).toEqual(expected);
  });

  it('renders matches of every kind, the first of a repeated header only', () => {
    const matches = [
      {
        path: { type: 'PathPrefix', value: '/v1/' },
        method: 'POST',
        headers: [
          { name: 'X-Model', value: 'a' },
          { name: 'x-model', value: 'b' },
          { type: 'RegularExpression', name: 'x-tier', value: 'g.*' },
        ],
        queryParams: [{ name: 'q', value: '1' }],
      },
    ];
    expect(routesOf([{ name: 'named', matches, backendRefs }])[0]).toMatchObject({
      name: 'app/r/named',
      match: {
        path_separated_prefix: '/v1',
        headers: [
          { name: ':method', string_match: { exact: 'POST' } },
          { name: 'X-Model', string_match: { exact: 'a' } },
          { name: 'x-tier', string_match: { safe_regex: { regex: 'g.*' } } },
        ],
        query_parameters: [{ name: 'q', string_match: { exact: '1' } }],
      },
      route: {
        timeout: '0s',
        weighted_clusters: { clusters: [{ name: 'service_app_web_80', weight: 1 }] },
      },
    });
  });

  it('changes headers, escapes percent signs and makes a host change a host rewrite', () => {
    const filters = [
      {
        type: 'RequestHeaderModifier',
        requestHeaderModifier: {
          set: [
            { name: 'x-a', value: '100%' },
            { name: 'Host', value: 'other' },
          ],
          add: [{ name: 'x-b', value: '2' }],
          remove: ['x-c'],
        },
      },
      { type: 'ResponseHeaderModifier', responseHeaderModifier: { remove: ['server'] } },
    ];
    expect(routesOf([{ filters, backendRefs }])[0]).toMatchObject({
      request_headers_to_add: [
        { header: { key: 'x-a', value: '100%%' }, append_action: 'OVERWRITE_IF_EXISTS_OR_ADD' },
        { header: { key: 'x-b', value: '2' }, append_action: 'APPEND_IF_EXISTS_OR_ADD' },
      ],
      request_headers_to_remove: ['x-c'],
      response_headers_to_remove: ['server'],
      route: { host_rewrite_literal: 'other' },
    });
  });

  it('redirects', () => {
    const filters = [
      {
        type: 'RequestRedirect',
        requestRedirect: {
          scheme: 'https',
          hostname: 'h',
          statusCode: 301,
          path: { type: 'ReplaceFullPath', replaceFullPath: '/x' },
        },
      },
    ];
    expect(routesOf([{ filters }])[0]).toMatchObject({
      redirect: {
        scheme_redirect: 'https',
        host_redirect: 'h',
        port_redirect: 443,
        path_redirect: '/x',
        response_code: 'MOVED_PERMANENTLY',
      },
    });
  });

  it('takes the shorter time-out', () => {
    const timeouts = { request: '10s', backendRequest: '2500ms' };
    expect(routesOf([{ backendRefs, timeouts }])[0]).toMatchObject({ route: { timeout: '2.5s' } });
  });

  it('keeps weights, drops weight 0 and answers 500 for the share of what cannot be resolved', () => {
    const refs = [
      { name: 'web', port: 80, weight: 3 },
      { name: 'web', port: 80, weight: 0 },
      { name: 'gone', port: 80, weight: 1 },
    ];
    expect(routesOf([{ backendRefs: refs }])[0]).toMatchObject({
      route: {
        cluster_not_found_response_code: 'INTERNAL_SERVER_ERROR',
        weighted_clusters: {
          clusters: [
            { name: 'service_app_web_80', weight: 3 },
            { name: 'invalid-backend', weight: 1 },
          ],
        },
      },
    });
    expect(routesOf([{ backendRefs: [{ name: 'gone', port: 80 }] }])[0]).toMatchObject({
      direct_response: { status: 500 },
    });
    expect(routesOf([{}])[0]).toMatchObject({ direct_response: { status: 500 } });
  });

  it('serves the narrowest hostname, then wider ones, within the narrowest listener', () => {
    const all = { allowedRoutes: { namespaces: { from: 'All' } } } as const;
    const gateways = [
      gateway({
        listeners: [
          { name: 'any', port: 80, protocol: 'HTTP', ...all },
          { name: 'shop', port: 80, protocol: 'HTTP', hostname: '*.shop.com', ...all },
        ],
      }),
    ];
    const httpRoutes = [
      route([{ backendRefs }], { hostnames: ['*.shop.com'] }, 'wide'),
      route([{ name: 'x', backendRefs }], { hostnames: ['a.shop.com'] }, 'narrow'),
      route([{ backendRefs }], { parentRefs: [{ name: 'gw', namespace: 'infra', sectionName: 'any' }] }, 'any'),
    ];
    const found = hosts({ gateways, httpRoutes }).map((h) => [h.name, h.routes.map((r) => r.name)]);
    expect(found).toEqual([
      ['a.shop.com', ['app/narrow/x', 'app/wide/0']],
      ['*.shop.com', ['app/wide/0']],
      ['*', ['app/any/0']],
    ]);
  });
});

describe('backends', () => {
  it('lists the ready pods of a Service, by number or by name of the target port', () => {
    const refs = [{ backendRefs: [{ name: 'web', port: 80 }] }];
    for (const target of [8000, 'web']) {
      const found = clusters({ httpRoutes: [route(refs)], services: [service('web', 80, target)] });
      expect(found.service_app_web_80).toMatchObject({
        load_assignment: {
          endpoints: [
            {
              lb_endpoints: [
                { endpoint: { address: { socket_address: { address: '127.65.0.1', port_value: 8000 } } } },
                { endpoint: { address: { socket_address: { address: '127.65.0.2', port_value: 8000 } } } },
              ],
            },
          ],
        },
      });
    }
  });

  it('asks the picker of a pool that fails closed and knows no other way', () => {
    const given = { httpRoutes: [route([{ backendRefs: [poolRef] }])], inferencePools: [pool('FailClose')] };
    const routes = routesOf([], given);
    expect(routes).toHaveLength(1);
    expect(routes[0]).toMatchObject({
      route: {
        weighted_clusters: {
          clusters: [
            {
              name: 'original-destination',
              typed_per_filter_config: {
                'envoy.filters.http.ext_proc': {
                  overrides: {
                    grpc_service: { envoy_grpc: { cluster_name: expect.stringMatching(/^picker_v1_app_pool_/) } },
                    failure_mode_allow: false,
                  },
                },
              },
            },
          ],
        },
      },
    });
    const [destination, picker] = Object.entries(clusters(given));
    expect(destination?.[0]).toBe('original-destination');
    expect(JSON.stringify(picker?.[1])).toContain('"address":"127.65.2.1","port_value":9002');
    expect(JSON.stringify(picker?.[1])).toContain('http2_protocol_options');
    const moved = { ...given, pods: [pod('epp-0', 'epp', '127.65.2.9')] };
    expect(Object.keys(clusters(moved))[1]).not.toBe(picker?.[0]);
  });

  it('gives a pool that fails open a second route to its ready pods', () => {
    const given = { httpRoutes: [route([{ backendRefs: [poolRef] }])], inferencePools: [pool('FailOpen')] };
    const [withDestination, without] = routesOf([], given);
    expect(withDestination).toMatchObject({
      match: { headers: [{ name: 'x-gateway-destination-endpoint', present_match: true }] },
      route: { weighted_clusters: { clusters: [{ name: 'original-destination' }] } },
    });
    expect(without).toMatchObject({ route: { weighted_clusters: { clusters: [{ name: 'pool_v1_app_pool' }] } } });
    expect(JSON.stringify(clusters(given).pool_v1_app_pool)).toContain('"address":"127.65.1.1","port_value":8000');
  });

  it('is called by TLS as a BackendTLSPolicy and the port of its picker say', () => {
    const secureEpp = service('epp', 9002, 9002);
    const given = {
      httpRoutes: [route([{ backendRefs: [poolRef] }, { backendRefs: [{ name: 'web', port: 80 }] }])],
      inferencePools: [pool('FailOpen')],
      services: [
        service('web'),
        { ...secureEpp, spec: { ...secureEpp.spec, ports: [{ port: 9002, appProtocol: 'https' }] } },
      ],
      backendTlsPolicies: [
        {
          apiVersion: api,
          kind: 'BackendTLSPolicy',
          metadata: { name: 'tls', namespace: 'app' },
          spec: {
            targetRefs: [poolRef, { group: '', kind: 'Service', name: 'web' }],
            validation: { hostname: 'web.app.svc', caCertificateRefs: [{ kind: 'ConfigMap', name: 'ca' }] },
          },
        },
      ],
    };
    const configMap = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'ca', namespace: 'app' } };
    const tlsOf = (more: Partial<GatewayInput>) =>
      Object.fromEntries(
        run({ ...given, ...more }).translation.resources.clusters.map((cluster) => [
          String(cluster.name).replace(/_[0-9a-f]{8}$/, ''),
          JSON.stringify(cluster.transport_socket ?? null).match(/"sni":"[^"]*"|trusted_ca|"h2"/g),
        ]),
      );
    const verified = ['"sni":"web.app.svc"', 'trusted_ca'];
    expect(tlsOf({ configMaps: [{ ...configMap, data: { 'ca.crt': 'PEM' } }] })).toEqual({
      destination_v1_app_pool: verified,
      picker_v1_app_pool: ['"sni":"epp.app.svc"', '"h2"'],
      pool_v1_app_pool: verified,
      service_app_web_80: verified,
    });
    expect(tlsOf({ configMaps: [configMap] })).toMatchObject({ service_app_web_80: null, pool_v1_app_pool: null });
  });

  it('tells the two groups of InferencePool apart', () => {
    const xRef = { ...poolRef, group: 'inference.networking.x-k8s.io' };
    const refs = [{ ...poolRef, weight: 9 }, xRef];
    const found = clusters({
      httpRoutes: [route([{ backendRefs: refs }])],
      inferencePools: [pool('FailOpen')],
      xInferencePools: [xPool],
    });
    expect(Object.keys(found).map((name) => name.replace(/_[0-9a-f]{8}$/, ''))).toEqual([
      'original-destination',
      'picker_v1_app_pool',
      'picker_v1alpha2_app_pool',
      'pool_v1_app_pool',
    ]);
  });

  it.each([
    ['a missing Service', { name: 'gone', port: 80 }, 'BackendNotFound'],
    ['a missing port', { name: 'web', port: 81 }, 'BackendNotFound'],
    ['a missing pool', poolRef, 'BackendNotFound'],
    ['another kind', { group: 'x.io', kind: 'Thing', name: 'web' }, 'InvalidKind'],
    ['another namespace', { name: 'web', namespace: 'other', port: 80 }, 'RefNotPermitted'],
  ])('%s', (_, ref, reason) => {
    const writes = statuses({ httpRoutes: [route([{ backendRefs: [ref] }])] });
    const write = writes.find((w) => w.object.kind === 'HTTPRoute');
    const parents = write?.status.parents as readonly { readonly conditions: unknown }[];
    expect(brief(parents[0]?.conditions)).toEqual({ Accepted: 'True Accepted', ResolvedRefs: `False ${reason}` });
  });

  it('follows a ReferenceGrant into another namespace', () => {
    const other: Service = { ...service('web'), metadata: { namespace: 'other', name: 'web' } };
    const grant = {
      apiVersion: 'gateway.networking.k8s.io/v1beta1',
      kind: 'ReferenceGrant',
      metadata: { namespace: 'other', name: 'g' },
      spec: {
        from: [{ group: 'gateway.networking.k8s.io', kind: 'HTTPRoute', namespace: 'app' }],
        to: [{ group: '', kind: 'Service' }],
      },
    };
    const refs = [{ name: 'web', namespace: 'other', port: 80 }];
    const found = clusters({
      httpRoutes: [route([{ backendRefs: refs }])],
      services: [other],
      referenceGrants: [grant],
    });
    expect(Object.keys(found)).toEqual(['service_other_web_80']);
  });
});

describe('statuses', () => {
  const statusOf = (partial: Partial<GatewayInput>, kind: string, state: ListenerState = ready) =>
    statuses(partial, state).find((write) => write.object.kind === kind)?.status as Record<string, unknown>;

  it('accepts its own class and no other', () => {
    const foreign: GatewayClass = { ...gatewayClass, metadata: { name: 'f' }, spec: { controllerName: 'x.io/y' } };
    const writes = statuses({ gatewayClasses: [gatewayClass, foreign], gateways: [] });
    expect(writes.map((write) => write.object.metadata.name)).toEqual(['local']);
    expect(brief(writes[0]?.status.conditions)).toEqual({ Accepted: 'True Accepted' });
  });

  it('programs a gateway', () => {
    const status = statusOf({ httpRoutes: [route([{ backendRefs: [{ name: 'web', port: 80 }] }])] }, 'Gateway');
    expect(status.addresses).toEqual([{ type: 'IPAddress', value: '127.66.0.1' }]);
    expect(brief(status.conditions)).toEqual({ Accepted: 'True Accepted', Programmed: 'True Programmed' });
    const [listener] = status.listeners as readonly { attachedRoutes: number; conditions: unknown }[];
    expect(listener).toMatchObject({
      name: 'http',
      attachedRoutes: 1,
      supportedKinds: [{ group: 'gateway.networking.k8s.io', kind: 'HTTPRoute' }],
    });
    expect(brief(listener?.conditions)).toEqual({
      Accepted: 'True Accepted',
      ResolvedRefs: 'True ResolvedRefs',
      Conflicted: 'False NoConflicts',
      Programmed: 'True Programmed',
    });
  });

  it('says why a port cannot be bound', () => {
    const message = "cannot bind '127.66.0.1:80': Permission denied";
    const status = statusOf({}, 'Gateway', { kind: 'failed', message });
    expect(brief(status.conditions)).toEqual({ Accepted: 'True Accepted', Programmed: 'False Invalid' });
    const [listener] = status.listeners as readonly { conditions: readonly { message: string }[] }[];
    expect(brief(listener?.conditions)).toMatchObject({
      Accepted: 'False PortUnavailable',
      Programmed: 'False Invalid',
    });
    expect(listener?.conditions.at(-1)?.message).toBe(message);
  });

  it('refuses listeners that it cannot serve and serves the others', () => {
    const listeners = [
      { name: 'a', port: 80, protocol: 'HTTP' },
      { name: 'b', port: 80, protocol: 'HTTP' },
      { name: 'c', port: 443, protocol: 'HTTPS' },
      { name: 'd', port: 81, protocol: 'HTTP', allowedRoutes: { kinds: [{ kind: 'GRPCRoute' }] } },
      { name: 'e', port: 82, protocol: 'HTTP' },
    ];
    const status = statusOf({ gateways: [gateway({ listeners })] }, 'Gateway');
    const said = (status.listeners as readonly { name: string; conditions: unknown }[]).map((l) => [
      l.name,
      brief(l.conditions),
    ]);
    expect(Object.fromEntries(said)).toMatchObject({
      a: { Conflicted: 'True HostnameConflict', Programmed: 'False Invalid' },
      b: { Conflicted: 'True HostnameConflict' },
      c: { Accepted: 'False UnsupportedProtocol', Programmed: 'False Invalid' },
      d: { ResolvedRefs: 'False InvalidRouteKinds', Programmed: 'False Invalid' },
      e: { Accepted: 'True Accepted', Programmed: 'True Programmed' },
    });
    expect(brief(status.conditions)).toEqual({ Accepted: 'True ListenersNotValid', Programmed: 'True Programmed' });
  });

  const only = (from: 'Same' | 'Selector', matchLabels: Readonly<Record<string, string>> = {}) => [
    gateway({
      listeners: [
        {
          name: 'http',
          port: 80,
          protocol: 'HTTP',
          allowedRoutes: { namespaces: { from, selector: { matchLabels } } },
        },
      ],
    }),
  ];
  const parent = { name: 'gw', namespace: 'infra' };
  it.each([
    ['an unknown section', {}, { parentRefs: [{ ...parent, sectionName: 'x' }] }, 'False NoMatchingParent'],
    ['an unknown port', {}, { parentRefs: [{ ...parent, port: 8080 }] }, 'False NoMatchingParent'],
    ['another namespace', { gateways: only('Same') }, {}, 'False NotAllowedByListeners'],
    [
      'a selector that does not fit',
      { gateways: only('Selector', { team: 'red' }) },
      {},
      'False NotAllowedByListeners',
    ],
    ['a selector that fits', { gateways: only('Selector', { team: 'blue' }) }, {}, 'True Accepted'],
    [
      'a hostname that is not shared',
      {
        gateways: [
          gateway({
            listeners: [
              {
                name: 'h',
                port: 80,
                protocol: 'HTTP',
                hostname: 'a.com',
                allowedRoutes: { namespaces: { from: 'All' } },
              },
            ],
          }),
        ],
      },
      { hostnames: ['b.com'] },
      'False NoMatchingListenerHostname',
    ],
    ['a mirror', {}, { rules: [{ filters: [{ type: 'RequestMirror' }] }] }, 'False UnsupportedValue'],
    [
      'look-ahead',
      {},
      { rules: [{ matches: [{ path: { type: 'RegularExpression', value: '/a(?=b)' } }] }] },
      'False UnsupportedValue',
    ],
  ] as const)('judges a route with %s', (_, partial, spec, verdict) => {
    const httpRoutes = [route([{ backendRefs: [{ name: 'web', port: 80 }] }], spec as Partial<HTTPRoute['spec']>)];
    const status = statusOf({ ...partial, httpRoutes }, 'HTTPRoute');
    const parents = status.parents as readonly { conditions: unknown }[];
    expect(brief(parents[0]?.conditions).Accepted).toBe(verdict);
  });

  it('keeps what other controllers say of a route, and takes back its own words', () => {
    const other = { parentRef: { name: 'else' }, controllerName: 'x.io/y', conditions: [] };
    const stale = { parentRef: { name: 'gone' }, controllerName, conditions: [] };
    const orphan: HTTPRoute = { ...route([], { parentRefs: [{ name: 'else' }] }), status: { parents: [other, stale] } };
    expect(statusOf({ httpRoutes: [orphan] }, 'HTTPRoute')).toEqual({ parents: [other] });
  });

  it('speaks of both kinds of pool', () => {
    const xRef = { ...poolRef, group: 'inference.networking.x-k8s.io' };
    const foreign = { parentRef: { kind: 'Gateway', name: 'theirs', namespace: 'app' }, conditions: [] };
    const theirs: Gateway = {
      ...gateway({ gatewayClassName: 'other' }, 'theirs'),
      metadata: { namespace: 'app', name: 'theirs' },
    };
    const writes = statuses({
      gateways: [gateway(), theirs],
      httpRoutes: [route([{ backendRefs: [poolRef, xRef] }])],
      inferencePools: [pool('FailOpen', 'gone')],
      xInferencePools: [{ ...xPool, status: { parent: [foreign] } }],
    });
    const [v1, v1alpha2] = writes.filter((write) => write.object.kind === 'InferencePool');
    const parents = v1?.status.parents as readonly {
      conditions: unknown;
      parentRef: unknown;
      controllerName: string;
    }[];
    expect(parents[0]?.parentRef).toEqual({
      group: 'gateway.networking.k8s.io',
      kind: 'Gateway',
      namespace: 'infra',
      name: 'gw',
    });
    expect(parents[0]?.controllerName).toBe(controllerName);
    expect(brief(parents[0]?.conditions)).toEqual({
      Accepted: 'True Accepted',
      ResolvedRefs: 'False InvalidExtensionRef',
    });
    const older = v1alpha2?.status.parent as readonly { conditions: unknown }[];
    expect(older[0]).toEqual(foreign);
    expect(brief(older[1]?.conditions)).toEqual({ Accepted: 'True Accepted', ResolvedRefs: 'True ResolvedRefs' });
  });

  it('writes nothing when nothing changed, and keeps the time of a condition that stays', () => {
    const first = {
      httpRoutes: [route([{ backendRefs: [poolRef] }])],
      inferencePools: [pool('FailOpen')],
      xInferencePools: [],
    };
    const given = input(first);
    const written = statuses(first);
    const withStatus = <T extends { readonly kind: string; readonly metadata: { readonly name: string } }>(
      object: T,
    ): T => {
      const write = written.find(
        (w) => w.object.kind === object.kind && w.object.metadata.name === object.metadata.name,
      );
      return write ? { ...object, status: JSON.parse(JSON.stringify(write.status)) } : object;
    };
    const later = {
      ...given,
      gatewayClasses: given.gatewayClasses.map(withStatus),
      gateways: given.gateways.map(withStatus),
      httpRoutes: given.httpRoutes.map(withStatus),
      inferencePools: given.inferencePools.map(withStatus),
    };
    const translation = run(later).translation;
    expect(renderStatuses(translation, later, () => ready, '2030-01-01T00:00:00Z')).toEqual([]);
    const failed = renderStatuses(translation, later, () => ({ kind: 'pending' }), '2030-01-01T00:00:00Z');
    const conditions = failed[0]?.status.conditions as readonly { type: string; lastTransitionTime: string }[];
    expect(Object.fromEntries(conditions.map((c) => [c.type, c.lastTransitionTime]))).toEqual({
      Accepted: '2026-02-02T00:00:00Z',
      Programmed: '2030-01-01T00:00:00Z',
    });
  });
});
