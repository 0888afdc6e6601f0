import { describe, expect, it } from '@jest/globals';
import { noGlobalValues, parseGlobalConfig } from '../../src/api/global-config.ts';
import { platform } from '../../test/builders/service.ts';
import type { Settings } from './gather.ts';
import { overlay } from './global-config.ts';

describe('settings of storage', () => {
  const { accounts: _, ...storage } = platform().storage;
  const own = { globals: noGlobalValues, storage } as Pick<Settings, 'globals' | 'storage'> as Settings;

  it.each<[string, Readonly<Record<string, string>>, Partial<Settings['storage']>]>([
    ['nothing', {}, {}],
    ['what is empty', { credentials: '{"gcs":{"gcsCredentialFileName":""},"s3":{"s3Endpoint":""}}' }, {}],
    [
      'the container that copies',
      {
        storageInitializer:
          '{"image":"example.org/init:1","cpuRequest":"100m","memoryRequest":"100Mi","memoryLimit":"1Gi","caBundleConfigMapName":"authorities","caBundleVolumeMountPath":"/etc/authorities"}',
      },
      {
        initializerImage: 'example.org/init:1',
        initializerResources: { requests: { cpu: '100m', memory: '100Mi' }, limits: { memory: '1Gi' } },
        caBundle: 'authorities',
        caBundlePath: '/etc/authorities',
      },
    ],
    [
      'the container that links',
      { storageInitializer: '{"uidModelcar":0,"memoryModelcar":"15Mi"}' },
      { modelcar: { uid: 0, resources: { requests: { memory: '15Mi' }, limits: { memory: '15Mi' } } } },
    ],
    [
      'credentials',
      {
        credentials:
          '{"storageSecretNameAnnotation":"example.com/secret","gcs":{"gcsCredentialFileName":"key.json"},"s3":{"s3AccessKeyIDName":"id","s3SecretAccessKeyName":"secret","s3Endpoint":"store:9000","s3UseHttps":"0"}}',
      },
      {
        credentials: {
          secretAnnotation: 'example.com/secret',
          gcsKey: 'key.json',
          s3Keys: { AWS_ACCESS_KEY_ID: 'id', AWS_SECRET_ACCESS_KEY: 'secret' },
          s3Defaults: { 's3-endpoint': 'store:9000', 's3-usehttps': '0' },
        },
      },
    ],
  ])('follow %s of the global configuration', (_what, data, expected) => {
    const { values, problems } = parseGlobalConfig(data, noGlobalValues);
    expect(problems).toEqual([]);
    expect(overlay(own, values).storage).toEqual({ ...storage, ...expected });
  });
});
