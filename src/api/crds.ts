import {
  type CustomResourceDefinition,
  type PrinterColumn,
  relaxSchema,
  renderCrd,
  type ServiceReference,
  toStructuralSchema,
} from './crd.ts';
import { conversionPath } from './v1alpha1/convert.ts';
import {
  llmInferenceServiceSpec as spokeSpec,
  llmInferenceServiceStatus as spokeStatus,
} from './v1alpha1/llm-inference-service.ts';
import { llmInferenceServiceSpec } from './v1alpha2/llm-inference-service.ts';
import { llmInferenceServiceConfigStatus } from './v1alpha2/llm-inference-service-config.ts';
import { llmInferenceServiceStatus } from './v1alpha2/status.ts';

/** The CustomResourceDefinitions of this API, as the API server takes them. */

const ready: PrinterColumn = {
  name: 'Ready',
  type: 'string',
  jsonPath: '.status.conditions[?(@.type=="Ready")].status',
};
const reason: PrinterColumn = {
  name: 'Reason',
  type: 'string',
  jsonPath: '.status.conditions[?(@.type=="Ready")].reason',
};
const model: PrinterColumn = { name: 'Model', type: 'string', jsonPath: '.spec.model.name' };
const replicas: PrinterColumn = {
  name: 'Replicas',
  type: 'integer',
  jsonPath: '.status.workloads.primary.readyReplicas',
};
const wide: readonly PrinterColumn[] = [
  { name: 'Prefill', type: 'integer', jsonPath: '.status.workloads.prefill.readyReplicas', priority: 1 },
  { name: 'Weights', type: 'string', jsonPath: '.spec.model.uri', priority: 1 },
  { name: 'URLs', type: 'string', jsonPath: '.status.addresses[*].url', priority: 1 },
];
const age: PrinterColumn = { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' };

const group = 'serving.kserve.io';
const version = 'v1alpha2';
const olderVersion = 'v1alpha1';

/**
 * Where the chart puts the operator unless told otherwise; the operator corrects what differs when it starts. Until it
 * runs v1alpha1 fails, saying so, while `strategy: None` would let it store objects with fields missing.
 */
const converter: ServiceReference = {
  namespace: 'signalbox-system',
  name: 'signalbox-webhook',
  port: 9443,
  path: conversionPath,
};

export const llmInferenceServiceCrd = (): CustomResourceDefinition =>
  renderCrd({
    group,
    version,
    kind: 'LLMInferenceService',
    plural: 'llminferenceservices',
    singular: 'llminferenceservice',
    shortNames: ['llmisvc'],
    description: 'A large language model, served: model servers, routing and scheduling as one object.',
    columns: [{ name: 'URL', type: 'string', jsonPath: '.status.url' }, ready, reason, replicas, model, age, ...wide],
    spec: toStructuralSchema(llmInferenceServiceSpec),
    status: toStructuralSchema(llmInferenceServiceStatus),
    isSpecRequired: true,
    alsoServed: [
      { version: olderVersion, spec: toStructuralSchema(spokeSpec), status: toStructuralSchema(spokeStatus) },
    ],
    converter,
  });

export const llmInferenceServiceConfigCrd = (): CustomResourceDefinition =>
  renderCrd({
    group,
    version,
    kind: 'LLMInferenceServiceConfig',
    plural: 'llminferenceserviceconfigs',
    singular: 'llminferenceserviceconfig',
    description: 'A base that LLMInferenceServices are laid over.',
    columns: [ready, reason, age],
    spec: relaxSchema(toStructuralSchema(llmInferenceServiceSpec)),
    status: toStructuralSchema(llmInferenceServiceConfigStatus),
    isSpecRequired: false,
    alsoServed: [
      {
        version: olderVersion,
        spec: relaxSchema(toStructuralSchema(spokeSpec)),
        status: toStructuralSchema(llmInferenceServiceConfigStatus),
      },
    ],
    converter,
  });
