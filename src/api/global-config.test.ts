import { describe, expect, it } from '@jest/globals';
import { type GlobalValues, mergeGlobalValues, noGlobalValues, parseGlobalConfig } from './global-config.ts';

const values = (parts: Partial<GlobalValues>): GlobalValues => ({ ...noGlobalValues, ...parts });

describe('parseGlobalConfig', () => {
  const kserveIngressGateway = { namespace: 'kserve', name: 'kserve-ingress-gateway' };
  const good = values({
    ingress: { kserveIngressGateway: { namespace: 'a', name: 'b' }, urlScheme: 'https' },
    storageInitializer: { image: 'example.org/init:1', uidModelcar: 1 },
  });
  const none = noGlobalValues;
  it.each<[string, Readonly<Record<string, string>>, GlobalValues, GlobalValues, readonly string[]]>([
    ['nothing', {}, good, none, []],
    ['an empty key', { ingress: ' ' }, good, none, []],
    [
      'values, and fields that concern others',
      { ingress: '{"kserveIngressGateway":"kserve/kserve-ingress-gateway","urlScheme":"http","ingressGateway":"x/y"}' },
      none,
      values({ ingress: { kserveIngressGateway, urlScheme: 'http' } }),
      [],
    ],
    [
      'text that is not JSON beside a good key',
      { ingress: '{', storageInitializer: '{"image":"example.org/init:2"}' },
      good,
      values({ ingress: good.ingress, storageInitializer: { image: 'example.org/init:2' } }),
      ['ingress: '],
    ],
    ['JSON that is no object', { ingress: '[]' }, good, values({ ingress: good.ingress }), ['ingress: not an object']],
    [
      'a wrong value beside a good one',
      { ingress: '{"kserveIngressGateway":"nowhere","urlScheme":"http"}' },
      good,
      values({ ingress: { kserveIngressGateway: { namespace: 'a', name: 'b' }, urlScheme: 'http' } }),
      ['ingress.kserveIngressGateway: "nowhere": write namespace/name of a Gateway'],
    ],
    ['a wrong value without a good one', { ingress: '{"urlScheme":"ftp"}' }, none, none, ['ingress.urlScheme: "ftp"']],
    [
      'every key as KServe writes it',
      {
        storageInitializer:
          '{"image":"kserve/storage-initializer:v1","memoryRequest":"100Mi","memoryLimit":"1Gi","cpuRequest":"100m","cpuLimit":"1","caBundleConfigMapName":"","caBundleVolumeMountPath":"/etc/ssl/custom-certs","enableModelcar":true,"cpuModelcar":"10m","memoryModelcar":"15Mi","uidModelcar":1010,"ociModelMode":"native"}',
        credentials:
          '{"storageSpecSecretName":"storage-config","storageSecretNameAnnotation":"serving.kserve.io/storageSecretName","gcs":{"gcsCredentialFileName":"key.json"},"s3":{"s3AccessKeyIDName":"AWS_ACCESS_KEY_ID","s3UseHttps":""}}',
        scheduler: '{"expirationAnnotations":["certificates.kserve.io/expiration"]}',
        'autoscaling-wva-controller-config':
          '{"prometheus":{"url":"https://prometheus:9090","tlsInsecureSkipVerify":true}}',
        localModel: '{"enabled":false,"jobNamespace":"kserve-localmodel-jobs","fsGroup":1000}',
      },
      none,
      {
        ingress: {},
        storageInitializer: {
          image: 'kserve/storage-initializer:v1',
          memoryRequest: '100Mi',
          memoryLimit: '1Gi',
          cpuRequest: '100m',
          cpuLimit: '1',
          caBundleConfigMapName: '',
          caBundleVolumeMountPath: '/etc/ssl/custom-certs',
          enableModelcar: true,
          cpuModelcar: '10m',
          memoryModelcar: '15Mi',
          uidModelcar: 1010,
          ociModelMode: 'native',
        },
        credentials: {
          storageSpecSecretName: 'storage-config',
          storageSecretNameAnnotation: 'serving.kserve.io/storageSecretName',
          gcs: { gcsCredentialFileName: 'key.json' },
          s3: { s3AccessKeyIDName: 'AWS_ACCESS_KEY_ID', s3UseHttps: '' },
        },
        scheduler: { expirationAnnotations: ['certificates.kserve.io/expiration'] },
        'autoscaling-wva-controller-config': {
          prometheus: { url: 'https://prometheus:9090', tlsInsecureSkipVerify: true },
        },
        localModel: { enabled: false, jobNamespace: 'kserve-localmodel-jobs', fsGroup: 1000 },
      },
      [],
    ],
    [
      'a wrong value inside a value',
      { 'autoscaling-wva-controller-config': '{"prometheus":{"url":"prometheus:9090"}}' },
      none,
      none,
      ['autoscaling-wva-controller-config.prometheus: {"url":"prometheus:9090"}: url: write a URL'],
    ],
    [
      'a quantity that is none',
      { storageInitializer: '{"cpuLimit":1}' },
      none,
      none,
      ['storageInitializer.cpuLimit: 1'],
    ],
  ])('%s', (_, data, before, expected, problems) => {
    const parsed = parseGlobalConfig(data, before);
    expect(parsed.values).toEqual(expected);
    expect(parsed.problems).toEqual(problems.map((problem) => expect.stringContaining(problem)));
  });
});

describe('mergeGlobalValues', () => {
  it('goes value by value', () => {
    const lower = values({
      ingress: { urlScheme: 'http', modelBasedRoutingMode: 'enabled' },
      localModel: { enabled: true },
    });
    const higher = values({ ingress: { urlScheme: 'https' } });
    expect(mergeGlobalValues(lower, higher)).toEqual(
      values({ ingress: { urlScheme: 'https', modelBasedRoutingMode: 'enabled' }, localModel: { enabled: true } }),
    );
  });
});
