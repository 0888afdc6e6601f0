import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { findGatewayApiCrds, gatewayApiVersion } from './crds.ts';

const plurals = ['gatewayclasses', 'gateways', 'httproutes', 'referencegrants', 'backendtlspolicies'];
const fileOf = (plural: string) => `gateway.networking.k8s.io_${plural}.yaml`;
const definition = (plural: string) =>
  `apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n  name: ${plural}.gateway.networking.k8s.io\n`;

let folder: string;
let cacheDir: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'signalbox-crds-'));
  cacheDir = join(folder, 'cache');
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const offline = async () => {
  throw new Error('no network');
};
const noGo = async () => {
  throw new Error('no go');
};
const names = (paths: readonly string[]) => paths.map((path) => path.split('/').at(-1));

describe('the definitions of the Gateway API', () => {
  it('come from the release, and from the cache after that', async () => {
    const release = [...plurals, 'grpcroutes'].map(definition).join('---\n');
    // What an earlier version has left lacks a file.
    const left = join(cacheDir, 'crds', `gateway-api-${gatewayApiVersion}`);
    await mkdir(left, { recursive: true });
    await writeFile(join(left, fileOf('gateways')), definition('gateways'));
    const first = await findGatewayApiCrds({ cacheDir, run: noGo, download: async () => release });
    expect(names(first)).toEqual(plurals.map(fileOf));
    expect(await readFile(first[2] ?? '', 'utf8')).toContain('httproutes.gateway.networking.k8s.io');
    expect(await findGatewayApiCrds({ cacheDir, run: noGo, download: offline })).toEqual(first);
    expect(await readdir(join(cacheDir, 'crds'))).toEqual([`gateway-api-${gatewayApiVersion}`]);
  });

  it('come from the Go module where there is no network', async () => {
    const source = join(folder, 'module', 'config', 'crd', 'standard');
    await mkdir(source, { recursive: true });
    for (const plural of plurals) await writeFile(join(source, fileOf(plural)), definition(plural));
    const commands: string[] = [];
    const found = await findGatewayApiCrds({
      cacheDir,
      download: offline,
      run: async (command, args) => {
        commands.push([command, ...args].join(' '));
        return JSON.stringify({ Dir: join(folder, 'module') });
      },
    });
    expect(names(found)).toEqual(plurals.map(fileOf));
    expect(commands).toEqual([`go mod download -json sigs.k8s.io/gateway-api@${gatewayApiVersion}`]);
  });

  it('are missed with every way named, and nothing is left behind', async () => {
    const search = findGatewayApiCrds({ cacheDir, run: noGo, download: async () => definition('gateways') });
    await expect(search).rejects.toThrow(
      /the cache .* has none; release download: the release lacks gatewayclasses.*; go mod download: no go\./,
    );
    expect(await readdir(join(cacheDir, 'crds'))).toEqual([]);
  });
});
