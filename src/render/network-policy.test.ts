import { describe, expect, it } from '@jest/globals';
import { llmService, platform, prefillDecodeService } from '../../test/builders/service.ts';
import type { Platform } from './input.ts';
import { render } from './render.ts';

interface Policy {
  readonly spec: {
    readonly ingress: readonly {
      readonly from?: readonly Readonly<Record<string, never>>[];
      readonly ports?: readonly { readonly port: number }[];
    }[];
  };
}

const strict = { mode: 'strict', callers: ['envoy-gateway-system', '10.0.0.0/8'], scrapers: ['monitoring'] } as const;

/** `from: ports` of each rule of each policy. */
function rulesOf(service: ReturnType<typeof llmService>, network: Platform['network']) {
  const manifests = render({ service, effective: service.spec, platform: platform(network ? { network } : {}) });
  return Object.fromEntries(
    manifests
      .filter(({ kind }) => kind === 'NetworkPolicy')
      .map((manifest) => [
        manifest.metadata.name,
        (manifest as unknown as Policy).spec.ingress.map(({ from, ports }) => {
          const peers = (from ?? [{}]).map(
            (peer) =>
              JSON.stringify(peer).match(
                /metadata\.name":"([^"]+)|cidr":"([^"]+)|app.kubernetes.io\/name":"([^"]+)/,
              ) ?? ['', 'all'],
          );
          const names = peers.map((found) => found.slice(1).find((part) => part !== undefined));
          return `${names.join('+')}: ${ports?.map(({ port }) => port).join('+') ?? 'all'}`;
        }),
      ]),
  );
}

describe('network policies', () => {
  it.each([
    ['none are asked for', prefillDecodeService(), undefined, {}],
    ['they are off', prefillDecodeService(), { ...strict, mode: 'off' as const }, {}],
    [
      'only what is inside is closed',
      prefillDecodeService(),
      { ...strict, mode: 'internal' as const },
      {
        'chat-kserve': ['chat: all', 'all: 9091+8000'],
        'chat-kserve-router-scheduler': ['chat: all', 'all: 9002+9003+9090'],
      },
    ],
    [
      'they are strict',
      prefillDecodeService(),
      strict,
      {
        'chat-kserve': ['chat: all', 'signalbox-system+envoy-gateway-system+10.0.0.0/8: 8000', 'monitoring: 9091+8000'],
        'chat-kserve-router-scheduler': [
          'chat: all',
          'signalbox-system+envoy-gateway-system+10.0.0.0/8: 9002+9003',
          'monitoring: 9090',
        ],
      },
    ],
    [
      'there is no Gateway',
      llmService(),
      { ...strict, callers: [], scrapers: [] },
      { 'chat-kserve': ['chat: all', 'default: 8000'] },
    ],
    [
      'the service names its Gateway and a template a port',
      llmService({
        spec: {
          router: { gateway: { refs: [{ name: 'gw', namespace: 'edge' }] }, route: {} },
          template: { containers: [{ name: 'main', ports: [{ containerPort: 7000 }] }] },
        },
      }),
      { ...strict, callers: [] },
      { 'chat-kserve': ['chat: all', 'edge: 7000+8000', 'monitoring: 9091+8000'] },
    ],
  ])('when %s', (_when, service, network, expected) => {
    expect(rulesOf(service, network)).toEqual(expected);
  });
});
