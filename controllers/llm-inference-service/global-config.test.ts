import { describe, expect, it } from '@jest/globals';
import { type GlobalValues, parseGlobalConfig } from './global-config.ts';

describe('parseGlobalConfig', () => {
  const gateway = { namespace: 'kserve', name: 'kserve-ingress-gateway' };
  const good: GlobalValues = { gateway: { namespace: 'a', name: 'b' }, urlScheme: 'https' };
  it.each<[string, Readonly<Record<string, string>>, GlobalValues, GlobalValues, readonly string[]]>([
    ['nothing', {}, good, {}, []],
    ['an empty key', { ingress: ' ' }, good, {}, []],
    [
      'values',
      { ingress: '{"kserveIngressGateway":"kserve/kserve-ingress-gateway","urlScheme":"http","ingressGateway":"x/y"}' },
      {},
      { gateway, urlScheme: 'http' },
      [],
    ],
    ['text that is not JSON', { ingress: '{' }, good, good, ['ingress: ']],
    ['JSON that is no object', { ingress: '[]' }, good, good, ['ingress: not an object; write a JSON object']],
    [
      'a wrong value beside a good one',
      { ingress: '{"kserveIngressGateway":"nowhere","urlScheme":"http"}' },
      good,
      { gateway: { namespace: 'a', name: 'b' }, urlScheme: 'http' },
      ['ingress.kserveIngressGateway: "nowhere": write namespace/name'],
    ],
    ['a wrong value without a good one', { ingress: '{"urlScheme":"ftp"}' }, {}, {}, ['ingress.urlScheme: "ftp"']],
    ['TLS off', { ingress: '{"enableLLMInferenceServiceTLS":false}' }, {}, {}, []],
    ['another header', { ingress: '{"modelBasedRoutingHeaderName":"X-Model"}' }, {}, {}, ['not supported yet']],
    [
      'the usual model routing',
      { ingress: '{"modelBasedRoutingHeaderName":"X-Gateway-Model-Name","modelBasedRoutingMode":"enabled"}' },
      {},
      {},
      [],
    ],
    ['forced model routing', { ingress: '{"modelBasedRoutingMode":"forced"}' }, {}, {}, ['not supported yet']],
    ['TLS on', { ingress: '{"enableLLMInferenceServiceTLS":true}' }, {}, {}, ['not supported yet']],
  ])('%s', (_, data, before, values, problems) => {
    const parsed = parseGlobalConfig(data, before);
    expect(parsed.values).toEqual(values);
    expect(parsed.problems).toEqual(problems.map((problem) => expect.stringContaining(problem)));
  });
});
