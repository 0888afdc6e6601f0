import { describe, expect, it } from '@jest/globals';
import { llmService, platform, prefillDecodeService } from '../../../test/builders/service.ts';
import type { Container, PodSpec } from '../../api/foreign/pod.ts';
import type { LLMInferenceService, LLMInferenceServiceSpec } from '../../api/v1alpha2/llm-inference-service.ts';
import type { StorageFacts } from '../input.ts';
import { render } from '../render.ts';

function podOf(service: LLMInferenceService, storage: Partial<StorageFacts> = {}, name = 'chat-kserve'): PodSpec {
  const base = platform();
  const manifests = render({
    service,
    effective: service.spec,
    platform: { ...base, storage: { ...base.storage, ...storage } },
  });
  const found = manifests.find(({ kind, metadata }) => kind === 'Deployment' && metadata.name === name);
  return (found as unknown as { readonly spec: { readonly template: { readonly spec: PodSpec } } }).spec.template.spec;
}

const mainOf = (pod: PodSpec): Container => pod.containers.find(({ name }) => name === 'main') as Container;
const initOf = (pod: PodSpec, name: string) => pod.initContainers?.find((container) => container.name === name);
const withUri = (uri: string, spec: Partial<LLMInferenceServiceSpec> = {}) =>
  llmService({ spec: { ...spec, model: { uri } } });
const envOf = (container: Container | undefined) =>
  Object.fromEntries(
    (container?.env ?? []).map(({ name, value, valueFrom }) => [
      name,
      value ?? `${valueFrom?.secretKeyRef?.name}/${valueFrom?.secretKeyRef?.key}`,
    ]),
  );

describe('a claim', () => {
  const pod = podOf(withUri('pvc://weights/qwen/7b'));

  it('is mounted as it is, read-only, and served from there', () => {
    expect(mainOf(pod).args?.[0]).toBe('/mnt/models');
    expect(mainOf(pod).volumeMounts).toContainEqual({
      name: 'kserve-pvc-source',
      mountPath: '/mnt/models',
      subPath: 'qwen/7b',
      readOnly: true,
    });
    expect(pod.volumes).toContainEqual({
      name: 'kserve-pvc-source',
      persistentVolumeClaim: { claimName: 'weights' },
    });
    expect(pod.initContainers).toBeUndefined();
  });

  it('serves prefill and decode alike', () => {
    const service = prefillDecodeService({ spec: { model: { uri: 'pvc://weights' } } });
    for (const name of ['chat-kserve', 'chat-kserve-prefill']) {
      const mount = mainOf(podOf(service, {}, name)).volumeMounts?.find(({ mountPath }) => mountPath === '/mnt/models');
      expect(mount).toEqual({ name: 'kserve-pvc-source', mountPath: '/mnt/models', readOnly: true });
    }
  });
});

describe('an image', () => {
  const volume = { name: 'model-image', image: { reference: 'models/qwen:1', pullPolicy: 'IfNotPresent' } };

  it.each([
    ['oci+native://models/qwen:1', {}],
    ['oci://models/qwen:1', { ociMode: 'native' as const }],
  ])('%s is a volume', (uri, storage) => {
    const pod = podOf(withUri(uri), storage);
    expect(pod.volumes).toContainEqual(volume);
    expect(mainOf(pod).volumeMounts).toContainEqual({
      name: 'model-image',
      mountPath: '/mnt/models',
      subPath: 'models',
      readOnly: true,
    });
    expect(pod.shareProcessNamespace).toBeUndefined();
  });

  it('is else linked by a sidecar of the same user that is there first', () => {
    const pod = podOf(
      withUri('oci://models/qwen:1', {
        template: { containers: [{ name: 'main', securityContext: { runAsUser: 7 } }] },
      }),
    );
    expect(pod.shareProcessNamespace).toBe(true);
    const car = initOf(pod, 'modelcar');
    expect(car).toMatchObject({
      image: 'models/qwen:1',
      restartPolicy: 'Always',
      securityContext: { runAsUser: 7, runAsNonRoot: true },
      startupProbe: { exec: { command: expect.anything() } },
    });
    expect(car?.args?.[2]).toBe('ln -sfn /proc/$$$$/root/models /mnt/models && sleep infinity');
    expect(mainOf(pod).volumeMounts).toContainEqual({ name: 'kserve-provision-location', mountPath: '/mnt' });
    expect(mainOf(pod).securityContext?.runAsUser).toBe(7);
  });
});

describe('an image that a sidecar links', () => {
  const modelcar = { uid: 1010, resources: { requests: { memory: '20Mi' }, limits: { memory: '20Mi' } } };
  it.each<[string, LLMInferenceServiceSpec['template'], number]>([
    ['the configuration', undefined, 1010],
    ['the template', { containers: [{ name: 'main', securityContext: { runAsUser: 7 } }] }, 7],
  ])('runs as the user of %s, as the server does', (_, template, user) => {
    const pod = podOf(withUri('oci://models/qwen:1', template ? { template } : {}), { modelcar });
    expect(initOf(pod, 'modelcar')).toMatchObject({
      securityContext: { runAsUser: user },
      resources: { requests: { cpu: '10m', memory: '20Mi' }, limits: { memory: '20Mi' } },
    });
    expect(mainOf(pod).securityContext).toMatchObject({ runAsUser: user, runAsNonRoot: true });
  });
});

describe('a download', () => {
  it.each([
    's3://bucket/qwen',
    'gs://bucket/qwen',
    'https://account.blob.core.windows.net/container/qwen',
    'http://host/qwen.tar',
    'abfs://container@account/qwen',
    'ms://Qwen/Qwen3-8B',
  ])('of %s goes through the init container into a volume that the server only reads', (uri) => {
    const pod = podOf(withUri(uri));
    const init = initOf(pod, 'storage-initializer');
    expect(init).toMatchObject({ image: 'kserve/storage-initializer:v0.17.0', args: [uri, '/mnt/models'] });
    const volume = 'kserve-provision-location';
    expect(init?.volumeMounts).toEqual([{ name: volume, mountPath: '/mnt/models' }]);
    expect(mainOf(pod).volumeMounts).toContainEqual({ name: volume, mountPath: '/mnt/models', readOnly: true });
    expect(pod.volumes).toContainEqual({ name: volume, emptyDir: {} });
    expect(mainOf(pod).args?.[0]).toBe('/mnt/models');
  });

  it("merges the user's part of the container but not its arguments", () => {
    const template = {
      containers: [],
      initContainers: [
        { name: 'first', image: 'x' },
        { name: 'storage-initializer', image: 'mine', command: ['x'], args: ['y'], env: [{ name: 'A', value: 'b' }] },
      ],
    };
    const pod = podOf(withUri('s3://bucket', { template }));
    expect(pod.initContainers?.map(({ name }) => name)).toEqual(['storage-initializer', 'first']);
    const init = initOf(pod, 'storage-initializer');
    expect(init).toMatchObject({
      image: 'mine',
      args: ['s3://bucket', '/mnt/models'],
      env: [{ name: 'A', value: 'b' }],
    });
    expect(init?.command).toBeUndefined();
    expect(podOf(withUri('pvc://c', { template })).initContainers?.map(({ name }) => name)).toEqual(['first']);
  });

  it("is shared where the template puts a claim in the volume's place", () => {
    const shared = { name: 'kserve-provision-location', persistentVolumeClaim: { claimName: 'shared' } };
    const pod = podOf(withUri('s3://bucket', { template: { containers: [], volumes: [shared] } }));
    expect(pod.volumes?.filter(({ name }) => name === shared.name)).toEqual([shared]);
  });

  it('trusts the authorities of a ConfigMap', () => {
    const pod = podOf(withUri('s3://bucket'), { caBundle: 'authorities' });
    expect(pod.volumes).toContainEqual({ name: 'cabundle-cert', configMap: { name: 'authorities' } });
    expect(envOf(initOf(pod, 'storage-initializer'))).toMatchObject({
      CA_BUNDLE_CONFIGMAP_NAME: 'authorities',
      CA_BUNDLE_VOLUME_MOUNT_POINT: '/etc/ssl/custom-certs',
    });
  });

  it('mounts them, and takes resources, as the configuration says', () => {
    const init = initOf(
      podOf(withUri('s3://bucket'), {
        caBundle: 'authorities',
        caBundlePath: '/etc/authorities',
        initializerResources: { requests: { memory: '1Gi' }, limits: { cpu: '2' } },
      }),
      'storage-initializer',
    );
    expect(init?.volumeMounts).toContainEqual({ name: 'cabundle-cert', mountPath: '/etc/authorities', readOnly: true });
    expect(envOf(init).CA_BUNDLE_VOLUME_MOUNT_POINT).toBe('/etc/authorities');
    expect(init?.resources).toEqual({ requests: { cpu: '100m', memory: '1Gi' }, limits: { cpu: '2', memory: '4Gi' } });
  });

  it('decrypts where the service says so', () => {
    const confidential = { enabled: true, resourceId: 'kbs:///a/b/c' };
    const pod = podOf(llmService({ spec: { model: { uri: 'hf://a/b', confidential } } }));
    expect(envOf(initOf(pod, 'storage-initializer'))).toMatchObject({
      CONFIDENTIAL_ENABLED: 'true',
      CONFIDENTIAL_RESOURCE_ID: 'kbs:///a/b/c',
    });
  });
});

describe('a model of the hub', () => {
  const usesInitializer = (spec: Partial<LLMInferenceServiceSpec>, storage: Partial<StorageFacts> = {}) =>
    initOf(podOf(withUri('hf://a/b:v1', spec), storage), 'storage-initializer') !== undefined;

  it('is loaded by the engine, with its revision', () => {
    const pod = podOf(withUri('hf://a/b:v1'));
    expect(mainOf(pod).args?.slice(0, 3)).toEqual(['a/b', '--revision', 'v1']);
    expect(pod.initContainers).toBeUndefined();
  });

  it.each<[string, Partial<LLMInferenceServiceSpec>, Partial<StorageFacts>, boolean]>([
    ['nothing asks', {}, {}, false],
    ['settings ask', {}, { huggingFace: 'initializer' }, true],
    ['the service asks', { storageInitializer: { enabled: true } }, {}, true],
    ['the service declines', { storageInitializer: { enabled: false } }, { huggingFace: 'initializer' }, false],
    ['the template has the container', { template: { initContainers: [{ name: 'storage-initializer' }] } }, {}, true],
    [
      'an own command reads the path',
      { template: { containers: [{ name: 'main', command: ['sh', '-c', 'vllm serve /mnt/models'] }] } },
      {},
      true,
    ],
    ['an own command reads none', { template: { containers: [{ name: 'main', command: ['x'] }] } }, {}, false],
  ])('is copied or not when %s', (_why, spec, storage, expected) =>
    expect(usesInitializer(spec, storage)).toBe(expected),
  );

  it('has the settings of fast transfers when copied', () => {
    const init = initOf(podOf(withUri('hf://a/b:v1'), { huggingFace: 'initializer' }), 'storage-initializer');
    expect(init?.args).toEqual(['hf://a/b:v1', '/mnt/models']);
    expect(envOf(init)).toMatchObject({ HF_HUB_ENABLE_HF_TRANSFER: '1', HF_XET_NUM_CONCURRENT_RANGE_GETS: '8' });
  });

  it('is left to the user when storage is off', () => {
    const pod = podOf(withUri('s3://bucket', { storageInitializer: { enabled: false } }));
    expect(mainOf(pod).args?.[0]).toBe('/mnt/models');
    expect(mainOf(pod).volumeMounts?.some(({ mountPath }) => mountPath === '/mnt/models')).toBe(false);
    expect(pod.initContainers).toBeUndefined();
  });
});

describe('credentials', () => {
  const accounts = (secrets: readonly string[], own: Readonly<Record<string, string>> = {}) => ({
    accounts: { default: { secrets, annotations: own } },
  });
  const init = (uri: string, storage: Partial<StorageFacts>, own: Readonly<Record<string, string>> = {}) =>
    initOf(podOf(llmService({ annotations: own, spec: { model: { uri } } }), storage), 'storage-initializer');

  it.each([
    ['s3://b', 'AWS_SECRET_ACCESS_KEY'],
    ['https://a.blob.core.windows.net/c', 'AZURE_CLIENT_SECRET'],
    ['ms://a/b', 'MS_TOKEN'],
  ])("of %s are keys of the ServiceAccount's Secret, each optional", (uri, key) => {
    const env = init(uri, accounts(['default-token-x2f4z', 'store']))?.env;
    expect(env).toContainEqual({ name: key, valueFrom: { secretKeyRef: { name: 'store', key, optional: true } } });
  });

  it.each(['serving.kserve.io/storageSecretName', 'serving.kserve.io/secretName'])(
    'come from the Secret of %s',
    (key) =>
      expect(envOf(init('s3://b', accounts(['other']), { [key]: 'mine' }))).toMatchObject({
        AWS_ACCESS_KEY_ID: 'mine/AWS_ACCESS_KEY_ID',
      }),
  );

  it('are all imported where there are several Secrets', () => {
    const container = init('s3://b', accounts(['a', 'b']));
    expect(container?.envFrom).toEqual([
      { secretRef: { name: 'a', optional: true } },
      { secretRef: { name: 'b', optional: true } },
    ]);
    expect(container).not.toHaveProperty('env');
  });

  it('of Google are a file', () => {
    const container = init('gs://b', accounts(['g']));
    expect(envOf(container).GOOGLE_APPLICATION_CREDENTIALS).toBe('/var/secrets/gcloud-application-credentials.json');
    expect(container?.volumeMounts).toContainEqual({ name: 'user-gcp-sa', mountPath: '/var/secrets', readOnly: true });
  });

  it('of a web server are headers under its name', () =>
    expect(envOf(init('https://models.example/x', accounts(['h'])))['models.example-headers']).toBe('h/headers'));

  it('have the endpoint of annotations, those of the service first', () => {
    const own = { 'serving.kserve.io/s3-endpoint': 'minio:9000', 'serving.kserve.io/s3-usehttps': '0' };
    const env = envOf(
      init('s3://b', accounts(['s'], { ...own, 'serving.kserve.io/s3-region': 'x' }), {
        'serving.kserve.io/s3-region': 'y',
      }),
    );
    expect(env).toMatchObject({
      AWS_ENDPOINT_URL: 'http://minio:9000',
      S3_ENDPOINT: 'minio:9000',
      S3_USE_HTTPS: '0',
      AWS_DEFAULT_REGION: 'y',
      AWS_ACCESS_KEY_ID: 's/AWS_ACCESS_KEY_ID',
    });
  });

  it('have the names and values of the configuration where nothing else is said', () => {
    const credentials = {
      secretAnnotation: 'example.com/secret',
      gcsKey: 'key.json',
      s3Keys: { AWS_ACCESS_KEY_ID: 'id' },
      s3Defaults: { 's3-endpoint': 'store:9000', 's3-region': 'default' },
    };
    const own = { 'example.com/secret': 'mine', 'serving.kserve.io/s3-region': 'x' };
    expect(envOf(init('s3://b', { credentials }, own))).toMatchObject({
      AWS_ACCESS_KEY_ID: 'mine/id',
      AWS_SECRET_ACCESS_KEY: 'mine/AWS_SECRET_ACCESS_KEY',
      S3_ENDPOINT: 'store:9000',
      AWS_DEFAULT_REGION: 'x',
    });
    expect(envOf(init('gs://b', { credentials }, own)).GOOGLE_APPLICATION_CREDENTIALS).toBe('/var/secrets/key.json');
  });

  it('for the hub reach the engine, and nothing but the token does', () => {
    const pod = podOf(withUri('hf://a/b'), accounts(['hub']));
    expect(mainOf(pod).env).toContainEqual({
      name: 'HF_TOKEN',
      valueFrom: { secretKeyRef: { name: 'hub', key: 'HF_TOKEN', optional: true } },
    });
    expect(JSON.stringify(mainOf(pod))).not.toContain('AWS');
    expect(JSON.stringify(podOf(withUri('s3://b'), accounts(['store'])).containers)).not.toContain('store');
  });

  it("are those of the template's ServiceAccount", () => {
    const storage = {
      accounts: { default: { secrets: ['d'], annotations: {} }, mine: { secrets: ['m'], annotations: {} } },
    };
    const pod = podOf(withUri('s3://b', { template: { containers: [], serviceAccountName: 'mine' } }), storage);
    expect(envOf(initOf(pod, 'storage-initializer')).AWS_ACCESS_KEY_ID).toBe('m/AWS_ACCESS_KEY_ID');
  });
});
