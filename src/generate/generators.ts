import { argoHealth } from './argo-health.ts';
import { chartWebhooks } from './chart.ts';
import { configReference } from './config-reference.ts';
import { crds } from './crds.ts';
import type { Generator } from './generator.ts';
import { helmSchema } from './helm-schema.ts';
import { installManifests } from './install-manifest.ts';
import { observability } from './observability.ts';
import { pickerPlugins } from './picker-plugins.ts';
import { podSchema } from './pod-schema.ts';
import { presets } from './presets.ts';
import { rbac } from './rbac.ts';

/** Every generator, in order: the install manifests are rendered from a chart that is complete. */
export const generators: readonly Generator[] = [
  crds,
  rbac,
  configReference,
  chartWebhooks,
  helmSchema,
  podSchema,
  pickerPlugins,
  observability,
  argoHealth,
  presets,
  installManifests,
];
