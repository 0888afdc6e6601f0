import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { parse, parseAllDocuments } from 'yaml';
import { installManifests } from '../../src/generate/install-manifest.ts';
import type { Client } from '../../src/kube/client.ts';
import { loadKubeConfig } from '../../src/kube/config.ts';
import { resources } from '../../src/kube/resources.ts';
import { createClient } from '../../src/kube/rest-client.ts';
import type { ControlPlane } from '../../src/local/control-plane.ts';
import { findBinaries } from '../../src/local/paths.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { localEnvironment, root, startTestControlPlane } from './control-plane.ts';
import { readManifests } from './permitted-operator.ts';

/** The chart, judged by the real Helm. */

const execute = promisify(execFile);
let helm: string;

beforeAll(async () => {
  ({ helm } = await findBinaries(['helm'], localEnvironment, (line) => process.stderr.write(`${line}\n`)));
}, 600_000);

/** Standard output and error of one run, whether it succeeds or not. */
async function run(...args: readonly string[]): Promise<string> {
  return execute(helm, [...args], { timeout: 60_000, maxBuffer: 16 * 1024 * 1024 }).then(
    ({ stdout, stderr }) => `${stdout}${stderr}`,
    (failed: { readonly stdout: string; readonly stderr: string }) => `${failed.stdout}${failed.stderr}`,
  );
}

const chart = join(root, 'helm/signalbox');
const template = (...args: readonly string[]) => run('template', 'x', chart, '--kube-version=1.35.4', ...args);

describe('the chart', () => {
  it('is what the install manifests were rendered from (make generate writes them)', async () => {
    for (const [path, content] of await installManifests.generate())
      expect([path, readFileSync(join(root, path), 'utf8')]).toEqual([path, content]);
  });

  it('is lint-clean', async () => {
    const report = await run('lint', chart, '--strict', '--kube-version=1.35.4');
    expect(report).toContain('1 chart(s) linted, 0 chart(s) failed');
    expect(report).not.toMatch(/\[(WARNING|ERROR)\]/);
  });

  it.each([
    ['a misspelt value', 'replica=2', 'replica'],
    ['a misspelt value inside', 'webhook.prot=1', 'prot'],
    ['a text for a number', 'workers=many', 'workers'],
    ['a level that is none', 'logLevel=loud', 'logLevel'],
    ['a flavour that is none', 'images.flavour=other', 'flavour'],
    ['a port too high', 'webhook.port=70000', 'port'],
    ['no worker', 'workers=0', 'workers'],
  ])('refuses %s', async (_, value, words) => {
    const report = await template('--set', value);
    expect(report).toContain("values don't meet the specifications of the schema");
    expect(report).toContain(words);
  });

  it('hands values to the operator and the webhooks', async () => {
    const text = await template('--namespace=elsewhere', '--set', 'webhook.servicePort=443,workers=3,global.a=b');
    expect(text).toContain('--workers=3');
    expect(text.match(/namespace: elsewhere\n\s+port: 443\n\s+path: \//g)).toHaveLength(5);
  });

  it("runs upstream's picker and sidecar when told, by the operator's images or others", async () => {
    const text = await template('--set', 'images.flavour=upstream,images.upstream.epp=mirror/epp:v0.9.0');
    expect(text).toContain('--images-flavour=upstream');
    expect(text).toContain('--epp-image=mirror/epp:v0.9.0');
    expect(text).not.toContain('--sidecar-image');
  });

  it('lets pickers ask about tokens when told, by a binding of its own for each release', async () => {
    const bindingOf = async (...args: readonly string[]) =>
      parseAllDocuments(await template(...args))
        .map((each) => each.toJS() as Record<string, { readonly name?: string }> | null)
        .find((each) => each?.roleRef?.name === 'system:auth-delegator');
    expect(await bindingOf()).toBeUndefined();
    const enabled = '--set=pickers.metricsAuth.enabled=true';
    const everywhere = await bindingOf(enabled, '--namespace=a');
    expect(everywhere).toMatchObject({ subjects: [{ kind: 'Group', name: 'system:serviceaccounts' }] });
    const named = await bindingOf(enabled, '--namespace=b', '--set=pickers.metricsAuth.namespaces={x,y}');
    expect(named).toMatchObject({
      subjects: [{ name: 'system:serviceaccounts:x' }, { name: 'system:serviceaccounts:y' }],
    });
    expect(named?.metadata?.name).not.toBe(everywhere?.metadata?.name);
    expect(await template(enabled)).toContain('--picker-metrics-auth=true');
  });

  it('brings dashboards when asked, and rules and a monitor where the cluster knows the kinds', async () => {
    const kinds = (text: string) =>
      parseAllDocuments(text).map((each) => (each.toJS() as { readonly kind?: string } | null)?.kind);
    const plain = kinds(await template());
    for (const kind of ['ConfigMap', 'PrometheusRule', 'PodMonitor']) expect(plain).not.toContain(kind);
    const group = 'monitoring.coreos.com/v1';
    const text = await template(
      '--set=observability.dashboards.enabled=true,observability.labels.release=mine',
      ...['PrometheusRule', 'PodMonitor'].flatMap((kind) => ['--api-versions', `${group}/${kind}`]),
    );
    const documents = parseAllDocuments(text).map((each) => each.toJS() as Record<string, never> | null);
    const rule = documents.find((each) => each?.kind === 'PrometheusRule');
    const written = parse(readFileSync(join(root, 'config/observability/alerts.yaml'), 'utf8')) as object;
    expect(rule).toMatchObject({ metadata: { labels: { release: 'mine' } }, spec: written });
    expect(documents.find((each) => each?.kind === 'PodMonitor')).toMatchObject({
      metadata: { labels: { release: 'mine' } },
      spec: { selector: { matchLabels: { 'app.kubernetes.io/component': 'operator' } } },
    });
    const dashboards = documents.filter((each) => each?.kind === 'ConfigMap');
    expect(dashboards.length).toBe(4);
    for (const { data } of dashboards as unknown as readonly { readonly data: Record<string, string> }[]) {
      expect(JSON.parse(Object.values(data)[0] ?? '')).toMatchObject({ uid: expect.stringMatching(/^signalbox-/) });
    }
  });
});

describe('what the chart makes', () => {
  it('with its defaults: two replicas apart, a budget, closed ports, nothing of tests without Helm', async () => {
    const text = await template('--skip-tests');
    expect(text).toMatch(/kind: PodDisruptionBudget[\s\S]+?maxUnavailable: 1/);
    expect(text).toMatch(/kind: NetworkPolicy[\s\S]+?- port: webhook\n\s+- port: health/);
    expect(text).toMatch(/replicas: 2[\s\S]+?podAntiAffinity/);
    expect(text).not.toMatch(/signalbox-test|cert-manager\.io/);
  });

  it('with one replica: no budget, which would only keep nodes from being drained', async () => {
    expect(await template('--set', 'replicas=1')).not.toContain('kind: PodDisruptionBudget');
  });

  it('with digests and a mirror: images by both', async () => {
    const digest = `sha256:${'ab'.repeat(32)}`;
    const text = await template('--set', `images.prefix=mirror.example.com/,images.digests.operator=${digest}`);
    expect(text).toContain(`image: mirror.example.com/signalbox/operator@${digest}`);
    expect(text).toContain('--epp-image=mirror.example.com/signalbox/epp:0.1.0');
  });

  it('with cert-manager: a Certificate into the Secret that the operator then waits for', async () => {
    const text = await template('--set', 'webhook.certificates=cert-manager,webhook.issuer=ClusterIssuer/corporate');
    expect(text).toMatch(/kind: Certificate[\s\S]+?secretName: signalbox-webhook-certificate/);
    expect(text).toMatch(/issuerRef:\n\s+kind: ClusterIssuer\n\s+name: corporate/);
    expect(text).not.toContain('kind: Issuer\nmetadata');
    expect(text).toContain('--webhook-certificate=given');
  });

  it.each([
    ['an issuer without kind', 'webhook.issuer=corporate', '/webhook/issuer'],
    ['a digest that is none', 'images.digests.epp=latest', '/images/digests/epp'],
    ['certificates of nobody', 'webhook.certificates=none', '/webhook/certificates'],
    ['a service without namespace', 'test.service=chat', '/test/service'],
  ])('refuses %s', async (_, value, path) => {
    expect(await template('--set', value)).toContain(path);
  });
});

describe('a release', () => {
  let plane: ControlPlane;
  let admin: Client;
  beforeAll(async () => {
    plane = await startTestControlPlane({ serviceNetwork: '127.219' });
    admin = createClient(await loadKubeConfig({ path: plane.kubeconfigPath }), { log: silentLogger });
  }, 600_000);
  afterAll(async () => {
    await admin?.close();
    await plane?.stop();
  }, 60_000);

  it('of the chart before is upgraded, and leaves definitions and services behind when it goes', async () => {
    const options = ['--namespace=signalbox-system', `--kubeconfig=${plane.kubeconfigPath}`];
    const before = join(root, 'test/cluster/testdata/signalbox-0.1.0.tgz');
    expect(await run('install', 'signalbox', before, ...options, '--create-namespace')).toContain('STATUS: deployed');
    // Nobody converts here.
    const names = ['llminferenceservices', 'llminferenceserviceconfigs'].map((plural) => `${plural}.serving.kserve.io`);
    const withoutConversion = () =>
      Promise.all(
        names.map((name) =>
          admin.mergePatch(
            resources.customResourceDefinitions,
            { name },
            { spec: { conversion: { strategy: 'None', webhook: null } } },
          ),
        ),
      );
    await withoutConversion();
    for (const name of names)
      for (const file of readManifests('crds', `serving.kserve.io_${name.split('.')[0]}.yaml`))
        await admin.apply(resources.customResourceDefinitions, file, { fieldManager: 'kubectl', force: true });
    await withoutConversion();
    const upgraded = await run('upgrade', 'signalbox', join(root, 'helm/signalbox'), ...options);
    expect(upgraded).toContain('STATUS: deployed');
    const at = { namespace: 'signalbox-system', name: 'signalbox-operator' };
    expect(await admin.get(resources.deployments, at)).toMatchObject({ spec: { replicas: 2 } });
    expect(await admin.get(resources.podDisruptionBudgets, at)).toBeDefined();

    for (const name of ['mutatingWebhookConfigurations', 'validatingWebhookConfigurations'] as const)
      await admin.delete(resources[name], { name: 'signalbox' });
    const service = {
      apiVersion: 'serving.kserve.io/v1alpha2',
      kind: 'LLMInferenceService',
      metadata: { name: 'kept', namespace: 'default' },
      spec: { model: { uri: 'hf://a/b' } },
    };
    await admin.apply(resources.llmInferenceServices, service, { fieldManager: 'kubectl' });
    expect(await run('uninstall', 'signalbox', ...options)).toContain('uninstalled');
    expect(await admin.get(resources.deployments, at)).toBeUndefined();
    expect(await admin.get(resources.llmInferenceServices, service.metadata)).toMatchObject({ spec: service.spec });
  }, 120_000);
});
