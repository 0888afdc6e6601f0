import { describe, expect, it } from '@jest/globals';
import { fullRouter, llmService, platform } from '../../../test/builders/service.ts';
import type { HTTPRouteRule, HTTPRouteSpec } from '../../api/foreign/gateway-api.ts';
import type { LLMInferenceServiceSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import type { LLMInferenceServiceConfig } from '../../api/v1alpha2/llm-inference-service-config.ts';
import { combine } from '../combine.ts';
import type { RenderInput } from '../input.ts';
import { render } from '../render.ts';
import { type GroupMember, sharingOf } from './group.ts';

const base = platform();

interface Case {
  readonly spec?: Partial<LLMInferenceServiceSpec>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly routing?: Partial<RenderInput['platform']['routing']>;
  readonly group?: readonly GroupMember[];
  /** Rules of a base configuration. */
  readonly baseRules?: readonly HTTPRouteRule[];
}

function routesOf({ spec, annotations, routing, group, baseRules }: Case) {
  const service = llmService({
    ...(annotations ? { annotations } : {}),
    spec: { router: fullRouter, ...(baseRules ? { baseRefs: [{ name: 'base' }] } : {}), ...spec },
  });
  const config = {
    metadata: { name: 'base', namespace: 'default' },
    spec: { router: { route: { http: { spec: { rules: baseRules } } } } },
  } as unknown as LLMInferenceServiceConfig;
  const combined = combine({
    service,
    find: (name) => (name === 'base' ? config : undefined),
    prefix: 'kserve-',
    settings: {
      systemNamespace: 'system',
      gatewayName: 'g',
      gatewayNamespace: 'system',
      enableTls: false,
      modelRoutingHeader: 'X-Gateway-Model-Name',
    },
  });
  if (combined.kind !== 'combined') throw new Error(combined.message);
  const manifests = render({
    service,
    effective: combined.effective,
    platform: { ...base, routing: { ...base.routing, ...routing } },
    group,
  });
  return manifests.filter(({ kind }) => kind === 'HTTPRoute') as unknown as readonly {
    readonly metadata: { readonly name: string; readonly labels: Readonly<Record<string, string>> };
    readonly spec: HTTPRouteSpec;
  }[];
}
const rulesOf = (of: Case) => routesOf(of).flatMap(({ spec }) => spec.rules ?? []);
const namesOf = (of: Case) => rulesOf(of).map(({ name }) => name);
const withRules = (...rules: readonly HTTPRouteRule[]): Partial<LLMInferenceServiceSpec> => ({
  router: { ...fullRouter, route: { http: { spec: { rules } } } } as unknown as NonNullable<
    LLMInferenceServiceSpec['router']
  >,
});

const defaults = [
  'v1-completions-path',
  'v1-chat-completions-path',
  'v1-responses-path',
  'v1-messages-path',
  'v1-model-routing',
  'v1-completions-publisher-path',
  'v1-chat-completions-publisher-path',
  'v1-responses-publisher-path',
  'v1-messages-publisher-path',
  'v1-publisher-path-catch-all',
  'v1-catch-all-path',
  'v1-catch-all-model-routing',
];
const withoutHeader = defaults.filter((name) => !name.endsWith('model-routing'));
const off = { 'serving.kserve.io/model-based-routing-enabled': 'false' };

describe('routing by a header', () => {
  it.each<[string, Case, readonly string[]]>([
    ['is there', {}, defaults],
    ['is turned off by the service', { spec: { annotations: off } }, withoutHeader],
    ['is turned off by a Gateway', { routing: { isModelRefused: true } }, withoutHeader],
    ['is forced on a Gateway', { routing: { isModelRefused: true, modelMode: 'forced' } }, defaults],
    ['is not forced on the service', { spec: { annotations: off }, routing: { modelMode: 'forced' } }, withoutHeader],
    ['is turned off for all', { routing: { modelMode: 'disabled' } }, withoutHeader],
  ])('%s', (_what, of, names) => expect(namesOf(of)).toEqual(names));

  it('goes by the header of the settings', () => {
    const text = JSON.stringify(rulesOf({ routing: { modelHeader: 'X-Model' } }));
    expect(text).toContain('"name":"X-Model","value":"publishers/default/models/chat"');
    expect(text).not.toContain('X-Gateway-Model-Name');
  });

  it('is stripped from the rules of presets, and left in those of the user', () => {
    const byHeader = { headers: [{ name: 'x-gateway-model-name', value: 'm' }] };
    const mixed = { name: 'mixed', matches: [byHeader, { path: { value: '/x' } }] };
    const only = { name: 'only', matches: [byHeader] };
    const routing = { modelMode: 'disabled' } as const;
    expect(rulesOf({ baseRules: [mixed, only], routing })).toMatchObject([
      { name: 'mixed', matches: [{ path: { value: '/x' } }] },
    ]);
    expect(rulesOf({ spec: withRules(only), routing })[0]).toMatchObject({ name: 'only', matches: [byHeader] });
  });
});

describe('rules of the user', () => {
  const mine: HTTPRouteRule = { name: 'mine', matches: [{ path: { value: '/mine' } }] };

  it('come first, and stand for the default of the same name', () => {
    const named: HTTPRouteRule = { name: 'v1-messages-path', matches: [{ path: { value: '/messages' } }] };
    const rules = rulesOf({ spec: withRules(mine, named) });
    expect(rules.map(({ name }) => name)).toEqual([
      'mine',
      'v1-messages-path',
      ...defaults.filter((name) => name !== 'v1-messages-path'),
    ]);
    expect(rules[1]?.matches).toEqual(named.matches);
  });

  it('are all there is where the user says so', () => {
    const annotations = { 'signalbox.io/route-rules': 'replace' };
    expect(namesOf({ annotations, spec: withRules(mine) })).toEqual(['mine']);
    expect(namesOf({ annotations, spec: withRules(mine), baseRules: [{ name: 'base' }] })).toEqual(['mine']);
  });

  it('come before those of a base, which take the place of the built-in ones', () => {
    const baseRules = [{ name: 'base', matches: [{ path: { value: '/base' } }] }];
    expect(namesOf({ spec: withRules(mine), baseRules })).toEqual(['mine', 'base']);
    expect(namesOf({ baseRules })).toEqual(['base']);
  });

  it('that say only a time-out are laid over the others', () => {
    const rules = rulesOf({
      spec: withRules(
        { timeouts: { request: '5m' } },
        { name: 'v1-messages-path', timeouts: { backendRequest: '1m' } },
      ),
    });
    expect(rules.map(({ name }) => name)).toEqual(defaults);
    for (const { name, timeouts } of rules)
      expect([name, timeouts]).toEqual([
        name,
        { request: '5m', backendRequest: name === 'v1-messages-path' ? '1m' : '0s' },
      ]);
  });

  it('that leave no room in one route push the defaults into another', () => {
    const many = Array.from({ length: 10 }, (_, i) => ({ name: `mine-${i}`, matches: [{ path: { value: `/${i}` } }] }));
    const routes = routesOf({ spec: withRules(...many) });
    expect(routes.map(({ metadata, spec }) => [metadata.name, spec.rules?.length])).toEqual([
      ['chat-kserve-route', 16],
      ['chat-kserve-route-2', 6],
    ]);
  });
});

describe('gateways', () => {
  it('that cut long answers are told not to', () =>
    expect(rulesOf({}).map(({ timeouts }) => timeouts)).toEqual(
      defaults.map(() => ({ request: '0s', backendRequest: '0s' })),
    ));
  it('that refuse time-outs get none', () =>
    expect(JSON.stringify(rulesOf({ routing: { omitsTimeouts: true } }))).not.toContain('timeouts'));
  it('that mix up rules get names of their own', () =>
    expect(namesOf({ routing: { needsUniqueNames: true } })).toEqual(defaults.map((name) => `default.chat.${name}`)));
});

describe('a group', () => {
  const member = (name: string, weight: number, more: Partial<GroupMember> = {}): GroupMember => ({
    name,
    weight,
    modelName: 'chat',
    adapters: [],
    pool: { name: `${name}-inference-pool` },
    workloadService: `${name}-kserve-workload-svc`,
    isLeaving: false,
    isServing: true,
    ...more,
  });
  const router = { ...fullRouter, route: { group: 'g', weight: 90 } };
  const backendsOf = (rules: readonly HTTPRouteRule[]) =>
    Object.fromEntries(
      rules.map(({ name, backendRefs }) => [
        name,
        (backendRefs ?? []).map((ref) => `${ref.kind} ${ref.name} ${ref.weight}`).join(', '),
      ]),
    );

  it('shares what goes by the name of the model, and nothing else', () => {
    const [route] = routesOf({
      spec: { router },
      group: [member('chat', 90), member('next', 10, { pool: undefined })],
    });
    expect(route?.metadata.labels).toMatchObject({ 'serving.kserve.io/routing-group': 'g' });
    const pools = 'InferencePool chat-inference-pool 90, Service next-kserve-workload-svc 10';
    const services = 'Service chat-kserve-workload-svc 90, Service next-kserve-workload-svc 10';
    expect(backendsOf(route?.spec.rules ?? [])).toEqual({
      ...Object.fromEntries(
        ['completions', 'chat-completions', 'responses', 'messages'].flatMap((endpoint) => [
          [`v1-${endpoint}-path`, 'InferencePool chat-inference-pool 1'],
          [`v1-${endpoint}-publisher-path`, pools],
        ]),
      ),
      'v1-model-routing': pools,
      'v1-publisher-path-catch-all': services,
      'v1-catch-all-path': 'Service chat-kserve-workload-svc 1',
      'v1-catch-all-model-routing': services,
    });
  });

  it('gives the same shares in the route of each member', () => {
    const group = [member('chat', 90), member('next', 10)];
    const shared = (name: string) => {
      const service = llmService({ name, spec: { router, model: { uri: 'hf://a/b', name: 'chat' } } });
      const routes = render({ service, effective: service.spec, platform: base, group }).filter(
        ({ kind }) => kind === 'HTTPRoute',
      ) as unknown as readonly { readonly spec: HTTPRouteSpec }[];
      return (routes[0]?.spec.rules ?? []).filter(({ name: rule }) => /publisher|model-routing/.test(rule ?? ''));
    };
    expect(shared('next')).toEqual(shared('chat'));
    expect(shared('chat')).toHaveLength(7);
  });

  it('shares an adapter among those that have it', () => {
    const lora = { adapters: ['a', 'b'].map((name) => ({ name, uri: 'hf://a/b' })) };
    const rules = rulesOf({
      spec: { router, model: { uri: 'hf://a/b', name: 'chat', lora } },
      group: [member('chat', 90, { adapters: ['a', 'b'] }), member('next', 10, { adapters: ['b'] })],
    });
    const of = (adapter: string) =>
      rules
        .filter((rule) => JSON.stringify(rule.matches).includes(`models/${adapter}`))
        .map(({ backendRefs }) => backendRefs?.map(({ weight }) => weight).join('+'));
    expect(of('a')).toEqual(['90', '90', '90']);
    expect(of('b')).toEqual(['90+10', '90+10', '90+10']);
  });

  it.each<[string, readonly GroupMember[], readonly string[]]>([
    [
      'everybody while nobody answers',
      [member('a', 1, { isServing: false }), member('b', 1, { isServing: false })],
      ['a', 'b'],
    ],
    ['those that answer', [member('a', 1, { isServing: false }), member('b', 1)], ['b']],
    ['nobody who leaves', [member('b', 1), member('a', 1, { isLeaving: true })], ['b']],
    ['nobody of another model', [member('b', 1), member('a', 1, { modelName: 'other' })], ['b']],
    [
      'as many as a rule can name',
      Array.from({ length: 18 }, (_, i) => member(String.fromCharCode(97 + i), 1)),
      [...'abcdefghijklmnop'],
    ],
  ])('is of %s', (_what, members, names) =>
    expect(sharingOf(members, 'chat').sharing.map(({ name }) => name)).toEqual(names),
  );
});
