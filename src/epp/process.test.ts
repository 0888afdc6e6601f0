import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually } from '../../test/expect/eventually.ts';
import { silentLogger } from '../telemetry/log.ts';
import { parseEppArgs } from './config.ts';
import type { Explanation } from './explain.ts';
import { parsePickerConfig } from './picker-config.ts';
import { type Epp, type EppDeps, startEpp } from './start.ts';

let dir: string;
const running: Epp[] = [];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'epp-process-'));
  await writeFile(
    join(dir, 'endpoints.yaml'),
    'endpoints:\n- {name: a, address: 10.0.0.1, port: "8000"}\n- {name: b, address: 10.0.0.2, port: "8000"}\n',
  );
});
afterAll(async () => {
  for (const epp of running) await epp.close();
  await rm(dir, { recursive: true });
});

const yaml = (scorers: readonly string[], more = '') => `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: file-discovery, parameters: {path: ${join(dir, 'endpoints.yaml')}}}
${scorers.map((type) => `- {type: ${type}}`).join('\n')}
schedulingProfiles: [{name: default, plugins: [${scorers.map((type) => `{pluginRef: ${type}}`).join(', ')}]}]
dataLayer: {injectDefaults: false, discovery: {pluginRef: file-discovery}}
${more}`;

async function start(config: string, flags: readonly string[] = [], deps: Partial<EppDeps> = {}): Promise<Epp> {
  const path = join(dir, `config-${running.length}.yaml`);
  await writeFile(path, config);
  const parsed = parseEppArgs(
    [
      '--pool-name=p',
      '--secure-serving=false',
      '--grpc-port=0',
      '--grpc-health-port=0',
      '--metrics-port=0',
      '--pod-address=127.0.0.1',
      '--drain-timeout=100ms',
      `--config-file=${path}`,
      ...flags,
    ],
    {},
  );
  if (parsed.kind !== 'config') throw new Error('help');
  const epp = await startEpp(parsed.config, parsePickerConfig(config, path), { log: silentLogger, ...deps });
  running.push(epp);
  return epp;
}

const urlOf = (epp: Epp, path: string) => `http://127.0.0.1:${epp.metricsPort}${path}`;
const chat = JSON.stringify({ model: 'llama', messages: [{ role: 'user', content: 'x'.repeat(2000) }] });

async function explain(epp: Epp): Promise<Explanation> {
  const response = await fetch(urlOf(epp, '/debug/explain'), { method: 'POST', body: chat });
  return (await response.json()) as Explanation;
}

describe('a configuration that changes', () => {
  it('is taken over whole, keeps what plugins know, and stays when the next one is wrong', async () => {
    const epp = await start(yaml(['queue-scorer', 'prefix-cache-scorer']));
    const path = join(dir, `config-${running.length - 1}.yaml`);
    const scorers = async () => Object.keys((await explain(epp)).profiles[0]?.weights ?? {});
    const write = async (text: string) => {
      // As editors and kubelets do.
      await writeFile(`${path}.new`, text);
      await rename(`${path}.new`, path);
    };
    const reloads = async (result: string) => {
      const page = await (await fetch(urlOf(epp, '/metrics'))).text();
      return Number(new RegExp(`config_reloads_total{result="${result}"} (\\d+)`).exec(page)?.[1] ?? 0);
    };
    expect(await scorers()).toEqual(['queue-scorer', 'prefix-cache-scorer']);

    await write(yaml(['active-request-scorer', 'prefix-cache-scorer']));
    await eventually(async () => expect(await scorers()).toEqual(['active-request-scorer', 'prefix-cache-scorer']));

    for (const [i, wrong] of [
      yaml(['no-such-scorer']),
      'plugins: [',
      yaml(['queue-scorer']).replace('endpoints.yaml', 'others.yaml'),
    ].entries()) {
      await write(wrong);
      await eventually(async () => expect(await reloads('refused')).toBe(i + 1));
    }
    expect(await scorers()).toEqual(['active-request-scorer', 'prefix-cache-scorer']);
    expect(await reloads('taken')).toBe(1);

    const state = (await (await fetch(urlOf(epp, '/debug/plugins/state'))).json()) as object;
    expect(state).toEqual({ 'approx-prefix-cache-producer': { blocks: 0 } });
  });
});
