import { describe, expect, it } from '@jest/globals';
import { checkKubernetes, checkPodTemplate } from './validate-pod.ts';

const main = { name: 'main' };

describe('checkPodTemplate', () => {
  it.each<[string, unknown]>([
    ['nothing', undefined],
    ['an empty one', {}],
    ['null as absent', { containers: null, nodeSelector: null }],
    [
      'what pods have',
      {
        containers: [
          {
            ...main,
            image: 'x',
            args: ['a'],
            env: [{ name: 'A', valueFrom: { resourceFieldRef: { resource: 'limits.cpu', divisor: 1 } } }],
            ports: [{ containerPort: 8000, name: 'http' }],
            resources: { limits: { 'nvidia.com/gpu': 8, memory: '1.5Ti' }, claims: [{ name: 'c', request: 'r' }] },
            livenessProbe: { httpGet: { path: '/', port: 'http' }, periodSeconds: 1 },
            volumeMounts: [{ name: 'v', mountPath: '/v', readOnly: true }],
            securityContext: { capabilities: { add: ['IPC_LOCK'] }, runAsUser: 0 },
          },
        ],
        volumes: [
          { name: 'v', emptyDir: { medium: 'Memory', sizeLimit: '1Gi' } },
          { name: 'e', ephemeral: { volumeClaimTemplate: { metadata: { labels: { a: 'b' } }, spec: {} } } },
          { name: 'i', image: { reference: 'x', pullPolicy: 'Always' } },
        ],
        affinity: {
          nodeAffinity: { preferredDuringSchedulingIgnoredDuringExecution: [{ weight: 1, preference: {} }] },
        },
        topologySpreadConstraints: [{ maxSkew: 1, topologyKey: 'z', whenUnsatisfiable: 'DoNotSchedule' }],
        resourceClaims: [{ name: 'c', resourceClaimTemplateName: 't' }],
        tolerations: [{ operator: 'Exists' }],
      },
    ],
    ['amounts that are rendered later', { containers: [{ ...main, resources: { limits: { cpu: '{{ .Spec.x }}' } } }] }],
  ])('accepts %s', (_, template) => {
    expect(checkPodTemplate(template, 't')).toEqual([]);
  });

  it.each<[string, unknown, string, string]>([
    ['another kind of value', 'x', 't', '"x" must be an object with fields such as'],
    [
      'a misspelt field',
      { containers: [{ ...main, resource: {} }] },
      't.containers[0].resource',
      'did you mean resources?',
    ],
    ['other capitals', { nodeselector: {} }, 't.nodeselector', 'did you mean nodeSelector?'],
    ['a field in the wrong place', { image: 'x' }, 't.image', 'image is no field of a PodSpec; remove it'],
    ['a field of nothing', { gpus: 1 }, 't.gpus', 'remove it or correct its name and indentation'],
    ['a map for a list', { volumes: {} }, 't.volumes', 'must be a list'],
    ['a list for a map', { nodeSelector: ['a'] }, 't.nodeSelector', 'must be an object of names and values'],
    ['a number for a text', { nodeSelector: { a: 1 } }, 't.nodeSelector[a]', 'must be a text; write "1"'],
    ['a truth for a text', { containers: [{ ...main, args: [true] }] }, 't.containers[0].args[0]', 'must be a text'],
    ['a text for a number', { priority: '1' }, 't.priority', 'must be a whole number'],
    ['a fraction', { priority: 1.5 }, 't.priority', 'must be a whole number'],
    ['a text for a truth', { hostNetwork: 'true' }, 't.hostNetwork', 'must be true or false'],
    [
      'no amount',
      { containers: [{ ...main, resources: { limits: { memory: '16 GB' } } }] },
      't.containers[0].resources.limits[memory]',
      'must be an amount such as',
    ],
    ['a volume without name', { volumes: [{ emptyDir: {} }] }, 't.volumes[0].name', 'a Volume needs a name'],
    [
      'a mount without place',
      { containers: [{ ...main, volumeMounts: [{ name: 'v' }] }] },
      't.containers[0].volumeMounts[0].mountPath',
      'needs a mountPath',
    ],
    ['a name with capitals', { containers: [{ name: 'Main' }] }, 't.containers[0].name', 'lower-case letters'],
    ['an empty name', { initContainers: [{ name: '' }] }, 't.initContainers[0].name', 'a container needs a name'],
  ])('refuses %s', (_, template, path, message) => {
    const issues = checkPodTemplate(template, 't');
    expect(issues.map((issue) => issue.path)).toEqual([path]);
    expect(issues[0]?.message).toContain(message);
  });

  it('leaves what is missing to other layers where it is told to', () => {
    const template = { volumes: [{ emptyDir: {} }], containers: [{ image: 'x' }] };
    expect(checkPodTemplate(template, 't', { isPartial: true })).toEqual([]);
    expect(checkPodTemplate(template, 't')).toHaveLength(2);
  });

  it('does not tell of one manifest without end', () => {
    const template = { nodeSelector: Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`a${i}`, i])) };
    const issues = checkPodTemplate(template, 't');
    expect(issues).toHaveLength(21);
    expect(issues[20]).toEqual({ path: 't', code: 'invalid', message: 'and 30 more fields are wrong' });
  });
});

describe('checkKubernetes', () => {
  it('knows claims and scaling behavior', () => {
    const claim = { accessModes: ['ReadWriteMany'], resources: { requests: { storage: '1Ti' } } };
    expect(checkKubernetes(claim, 'PersistentVolumeClaimSpec', 'c')).toEqual([]);
    const behavior = { scaleDown: { policies: [{ type: 'Pods', value: 1, periodSeconds: 60 }], tolerance: '0.1' } };
    expect(checkKubernetes(behavior, 'HorizontalPodAutoscalerBehavior', 'b')).toEqual([]);
    const wrong = { scaleUp: { policies: [{ type: 'Pods', value: 1, period: 60 }] } };
    expect(checkKubernetes(wrong, 'HorizontalPodAutoscalerBehavior', 'b').map(({ path }) => path)).toEqual([
      'b.scaleUp.policies[0].period',
      'b.scaleUp.policies[0].periodSeconds',
    ]);
  });
});
