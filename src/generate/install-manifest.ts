import { join } from 'node:path';
import { helmTemplate, localManifest, localValues } from '../local/helm.ts';
import { findBinaries, parseLocalEnvironment } from '../local/paths.ts';
import type { Generator } from './generator.ts';

const namespace = 'signalbox-system';

/** The chart rendered by real Helm: for `kubectl apply`, and for machines without Helm. Runs after the chart's own files. */
export const installManifests: Generator = {
  name: 'install manifests',
  generate: async () => {
    const root = join(import.meta.dirname, '..', '..');
    const environment = parseLocalEnvironment(root, process.execPath, process.env);
    const { helm } = await findBinaries(['helm'], environment, (line) => process.stderr.write(`${line}\n`));
    const head = '# Written by `make generate`: helm/signalbox rendered by Helm.\n';
    return new Map([
      ['config/install/signalbox.yaml', head + (await helmTemplate({ helm, root, namespace }))],
      [localManifest, head + (await helmTemplate({ helm, root, namespace, values: localValues }))],
    ]);
  },
};
