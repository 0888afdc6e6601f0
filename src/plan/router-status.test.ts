import { describe, expect, it } from '@jest/globals';
import { condition, gateway, observe, parentRef, readyDeployment } from '../../test/builders/observed.ts';
import { llmService } from '../../test/builders/service.ts';
import type { Gateway, HTTPRoute } from '../api/foreign/gateway-api.ts';
import type { InferencePool, XInferencePool } from '../api/foreign/inference-pool.ts';
import { addressesOf, isInternalHost, mainUrlOf } from './addresses.ts';
import { statusOf } from './status.ts';

describe('addresses', () => {
  const rules = [
    { matches: [{ path: { value: '/default/chat/v1/completions' } }] },
    { matches: [{ path: { value: '/default/chat' } }] },
    {
      matches: [
        { path: { value: '/v1/completions' }, headers: [{ name: 'X-Model', value: 'y' }] },
        { headers: [{ name: 'X-Model', value: 'y' }] },
      ],
    },
  ];
  const urls = (of: Gateway | undefined, route: object = {}, ports: readonly number[] = []) =>
    addressesOf({
      routes: [{ parentRefs: [parentRef], rules, ...route } as never],
      backends: ['pool', 'chat-svc'],
      namespace: 'default',
      models: ['chat'],
      modelHeader: 'x-model',
      gatewayOf: () => of,
      gatewayServiceOf: () => (ports.length > 0 ? { name: 'gw-envoy', namespace: 'infra', ports } : undefined),
    }).map(({ name, url }) => `${name} ${url}`);

  it.each<[string, Gateway | undefined, object, readonly string[]]>([
    ['a missing Gateway', undefined, {}, []],
    ['a Gateway without addresses', gateway({ status: {} }), {}, []],
    [
      'a Gateway',
      gateway(),
      {},
      ['gateway-external-model-routing http://203.0.113.7', 'gateway-external http://203.0.113.7/default/chat'],
    ],
    [
      'another port inside',
      gateway({
        listeners: [{ name: 'http', port: 8080, protocol: 'HTTP' }],
        status: { addresses: [{ value: '127.0.0.1' }] },
      }),
      { rules: rules.slice(0, 2) },
      ['gateway-internal http://127.0.0.1:8080/default/chat'],
    ],
    [
      'a wildcard listener',
      gateway({ listeners: [{ name: 'h', port: 443, protocol: 'HTTPS', hostname: '*.example.com' }] }),
      { rules: rules.slice(1, 2) },
      ['gateway-external https://inference.example.com/default/chat'],
    ],
    [
      'host names',
      gateway(),
      { hostnames: ['a.example.com'], rules: rules.slice(1, 2) },
      ['gateway-external http://a.example.com/default/chat'],
    ],
    [
      'one listener of two',
      gateway({
        listeners: [
          { name: 'http', port: 80, protocol: 'HTTP' },
          { name: 'tls', port: 8443, protocol: 'HTTPS' },
        ],
      }),
      { parentRefs: [{ ...parentRef, sectionName: 'tls' }], rules: rules.slice(1, 2) },
      ['gateway-external https://203.0.113.7:8443/default/chat'],
    ],
    [
      'IPv6',
      gateway({ status: { addresses: [{ value: '2001:db8::1' }] } }),
      { rules: rules.slice(1, 2) },
      ['gateway-external http://[2001:db8::1]/default/chat'],
    ],
    [
      'rules of others beside',
      gateway(),
      {
        rules: [
          { matches: [{ path: { value: '/' } }], backendRefs: [{ name: 'other' }] },
          { matches: [{ path: { value: '/a/b' } }], backendRefs: [{ name: 'chat-svc', port: 8000 }] },
          { matches: [{ path: { value: '/a' } }], backendRefs: [{ kind: 'InferencePool', name: 'pool' }] },
          {
            matches: [{ path: { value: '/h' }, headers: [{ name: 'beta', value: '1' }] }],
            backendRefs: [{ name: 'pool' }],
          },
        ],
      },
      ['gateway-external http://203.0.113.7/a/b'],
    ],
    [
      'a rule without matches',
      gateway(),
      { rules: [{ backendRefs: [{ kind: 'InferencePool', name: 'pool' }] }] },
      ['gateway-external http://203.0.113.7'],
    ],
  ])('of %s', (_what, of, route, expected) => expect(urls(of, route)).toEqual(expected));

  it.each<[string, Gateway, object, readonly string[]]>([
    [
      'without an address',
      gateway({ status: {} }),
      {},
      ['gateway-internal http://gw-envoy.infra.svc.cluster.local/default/chat'],
    ],
    [
      'beside its address',
      gateway(),
      {},
      [
        'gateway-external http://203.0.113.7/default/chat',
        'gateway-internal http://gw-envoy.infra.svc.cluster.local/default/chat',
      ],
    ],
    [
      'once where the address is its name',
      gateway({ status: { addresses: [{ value: 'gw-envoy.infra.svc.cluster.local' }] } }),
      {},
      ['gateway-internal http://gw-envoy.infra.svc.cluster.local/default/chat'],
    ],
    [
      'on no port that it lacks',
      gateway({ status: {}, listeners: [{ name: 'x', port: 81, protocol: 'HTTP' }] }),
      {},
      [],
    ],
    [
      'for no host name of others',
      gateway({ status: {}, listeners: [{ name: 'x', port: 80, protocol: 'HTTP', hostname: 'a.example.com' }] }),
      {},
      [],
    ],
    ['for no route of a host name', gateway({ status: {} }), { hostnames: ['a.example.com'] }, []],
  ])("by the Gateway's Service, %s", (_what, of, route, expected) =>
    expect(urls(of, { rules: rules.slice(0, 2), ...route }, [80])).toEqual(expected),
  );

  it('tell of a tokenizer', () => {
    const service = llmService({ spec: { router: { gateway: {}, route: {}, scheduler: { tokenizer: {} } } } });
    const conditionsOf = (parts: Parameters<typeof observe>[1]) =>
      new Map((statusOf(observe(service, parts), 'now').conditions ?? []).map((one) => [one.type, one] as const));
    expect(conditionsOf({}).get('TokenizerReady')?.status).toBe('True');
    const missing = conditionsOf({
      deployment: (name) => (name === 'chat-tokenizer' ? undefined : readyDeployment(name, 1)),
    });
    expect([missing.get('RouterReady')?.status, missing.get('RouterReady')?.reason]).toEqual([
      'False',
      'DeploymentMissing',
    ]);
    expect(missing.get('TokenizerReady')?.message).toContain('chat-tokenizer is not there yet');
  });

  it('prefer the own path from outside', () => {
    const address = (name: string, url: string) => ({ name, url });
    const inside = address('gateway-internal', 'http://10.0.0.1/default/chat');
    expect(mainUrlOf([inside], 'default', 'chat', 'http')).toBe(inside.url);
    expect(
      mainUrlOf(
        [inside, address('gateway-external', 'http://a/x'), address('gateway-external', 'http://a/default/chat')],
        'default',
        'chat',
        'http',
      ),
    ).toBe('http://a/default/chat');
    const both = ['http', 'https'].map((scheme) => address('gateway-external', `${scheme}://a/default/chat`));
    expect(mainUrlOf(both, 'default', 'chat', 'https')).toBe('https://a/default/chat');
    expect(mainUrlOf([], 'default', 'chat', 'http')).toBeUndefined();
  });

  it.each([
    ['10.1.2.3', true],
    ['172.20.0.1', true],
    ['172.32.0.1', false],
    ['8.8.8.8', false],
    ['x.svc.cluster.local', true],
    ['example.com', false],
    ['fd00::1', true],
    ['localhost', true],
  ])('%s is internal: %s', (host, expected) => expect(isInternalHost(host)).toBe(expected));
});

describe('objects of the user', () => {
  const route = { http: { refs: [{ name: 'mine' }] } };
  const accepted = (generation: number) =>
    ['Accepted', 'ResolvedRefs'].map((type) => condition(type, 'True', { observedGeneration: generation }));
  const userRoute = (conditions: readonly object[]): HTTPRoute =>
    ({
      apiVersion: 'gateway.networking.k8s.io/v1',
      kind: 'HTTPRoute',
      metadata: { name: 'mine', namespace: 'default', generation: 2 },
      spec: {
        parentRefs: [parentRef],
        rules: [{ matches: [{ path: { value: '/llm' } }], backendRefs: [{ kind: 'InferencePool', name: 'ours' }] }],
      },
      status: { parents: [{ parentRef, controllerName: 'x', conditions }] },
    }) as HTTPRoute;
  const userPool = {
    apiVersion: 'inference.networking.k8s.io/v1',
    kind: 'InferencePool',
    metadata: { name: 'ours', generation: 1 },
    spec: {
      selector: { matchLabels: { app: 'x' } },
      targetPorts: [{ number: 8000 }],
      endpointPickerRef: { name: 'their-picker', port: { number: 9002 } },
    },
    status: { parents: [{ parentRef, conditions: [condition('Accepted', 'True', { observedGeneration: 1 })] }] },
  } as unknown as InferencePool;
  const service = llmService({ spec: { router: { route, scheduler: { pool: { ref: { name: 'ours' } } } } } });
  const told = (parts: Parameters<typeof observe>[1]) => {
    const status = statusOf(observe(service, { pool: undefined, ...parts }), '2030-01-01T00:00:00Z');
    const of = (type: string) => {
      const found = status.conditions?.find((one) => one.type === type);
      return found && [found.status, found.reason, found.message].filter(Boolean).join(' ');
    };
    return { status, routes: of('HTTPRoutesReady'), pool: of('InferencePoolReady'), ready: of('Ready'), of };
  };

  it('decide in place of generated ones', () => {
    const { status, ...rest } = told({
      referenced: { routes: [{ name: 'mine', live: userRoute(accepted(2)) }], pool: userPool },
      pool: userPool,
    });
    expect(rest).toMatchObject({ routes: 'True', pool: 'True', ready: 'True' });
    expect(rest.of('SchedulerWorkloadReady')).toBeUndefined();
    expect(status).toMatchObject({
      url: 'http://203.0.113.7/llm',
      router: {
        gateways: [{ name: 'signalbox-gateway', httpRoutes: [{ name: 'mine' }] }],
        scheduler: {
          inferencePool: { group: 'inference.networking.k8s.io', name: 'ours' },
          service: { name: 'their-picker' },
        },
      },
    });
  });

  it('that are not there are named', () => {
    const { routes, pool, status } = told({ referenced: { routes: [{ name: 'mine', live: undefined }] } });
    expect(routes).toBe(
      'False RefsInvalid HTTPRoute mine does not exist; make it, or correct spec.router.route.http.refs',
    );
    expect(pool).toBe(
      'False RefsInvalid InferencePool ours does not exist; make it, or correct spec.router.scheduler.pool.ref',
    );
    expect([status.url, status.addresses]).toEqual([undefined, undefined]);
  });

  it('that a Gateway has not looked at are waited for', () => {
    const { routes, pool } = told({
      referenced: { routes: [{ name: 'mine', live: userRoute(accepted(1)) }] },
      xPool: { ...userPool, spec: { extensionRef: { name: 'their-picker' } }, status: {} } as unknown as XInferencePool,
    });
    expect(routes).toMatch(/^False HTTPRoutesNotReady HTTPRoute mine waits for Gateway .* to look at its current/);
    expect(pool).toMatch(/^False WaitingForGateway InferencePool ours waits for the controller of Gateway/);
  });
});
