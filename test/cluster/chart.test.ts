import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it } from '@jest/globals';
import { parse, parseAllDocuments } from 'yaml';
import { installManifests } from '../../src/generate/install-manifest.ts';
import { findBinaries } from '../../src/local/paths.ts';
import { localEnvironment, root } from './control-plane.ts';

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
